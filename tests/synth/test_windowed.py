"""Convolutions of few channels a group as sums over windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kevolve_core.ir import LibraryCall, Program, Reduce
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

#: (module, shape of its input): what it is of that is a sum over windows.
WINDOWED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(3, 3, 4, groups=3), (2, 3, 17)),
    "1d, strided, padded, dilated": (lambda: nn.Conv1d(3, 3, 3, 2, 4, 3, groups=3), (2, 3, 17)),
    "2d": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 9, 10)),
    "2d, padded": (lambda: nn.Conv2d(4, 4, (3, 5), 1, (1, 2), groups=4), (2, 4, 9, 10)),
    "2d, strided, dilated": (
        lambda: nn.Conv2d(4, 4, (3, 2), (2, 1), (2, 0), (2, 3), groups=4), (2, 4, 9, 10)),
    "2d, unbatched": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 9, 10)),
    "2d, padded more than the kernel": (lambda: nn.Conv2d(2, 2, 2, padding=3, groups=2), (1, 2, 3, 4)),
    "multiplier": (lambda: nn.Conv2d(3, 9, 3, padding=1, groups=3), (2, 3, 6, 7)),
    "3d": (lambda: nn.Conv3d(2, 4, (2, 3, 1), 2, (1, 1, 0), groups=2), (1, 2, 5, 6, 7)),
    "few channels a group": (lambda: nn.Conv2d(6, 4, 3, 2, 1, groups=2), (2, 6, 8, 9)),
}  # fmt: skip
#: Those that stay the library's.
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "one group": (lambda: nn.Conv2d(4, 4, 3), (2, 4, 9, 10)),
    "one channel": (lambda: nn.Conv2d(1, 4, 3), (2, 1, 9, 10)),
    "many taps": (lambda: nn.Conv2d(4, 4, 8, groups=4), (2, 4, 9, 10)),
    "many channels a group": (lambda: nn.Conv2d(16, 16, 1, groups=2), (2, 16, 9, 10)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 3, groups=4), (2, 4, 9, 10)),
}


def _convolutions(program: Program) -> list[LibraryCall]:
    return [s for s in program.steps if isinstance(s, LibraryCall) and "convolution" in s.op]


@pytest.mark.parametrize("name", WINDOWED)
def test_few_channels_a_group_are_a_generated_nest(check: Callable[..., Any], name: str) -> None:
    make, shape = WINDOWED[name]
    assert _convolutions(check(make().eval(), [torch.randn(shape)])) == []


@pytest.mark.parametrize("name", WINDOWED)
def test_the_library_stays_a_choice(check: Callable[..., Any], name: str) -> None:
    make, shape = WINDOWED[name]
    program = check(make().eval(), [torch.randn(shape)], Partition(windowed=False))
    assert len(_convolutions(program)) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_the_librarys(check: Callable[..., Any], name: str) -> None:
    make, shape = OTHERS[name]
    assert len(_convolutions(check(make().eval(), [torch.randn(shape)]))) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_added_up_in_float32_and_rounded_once(
    check: Callable[..., Any], dtype: torch.dtype
) -> None:
    program = check(nn.Conv2d(4, 4, 3, 2, 1, groups=4).to(dtype).eval(), [torch.randn(2, 4, 9, 10).to(dtype)])
    sums = [s for nest in program.nests() for s in nest.body if isinstance(s, Reduce)]
    wide = "float64" if dtype == torch.float64 else "float32"
    assert [(s.combiner, s.accumulate, s.dtype) for s in sums] == [("sum", wide, wide)]


def _block(activation: nn.Module) -> nn.Module:
    """A depthwise layer as networks have it, between pointwise convolutions."""
    torch.manual_seed(1)
    block = nn.Sequential(
        nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), activation,
        nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False), nn.BatchNorm2d(16), activation,
        nn.Conv2d(16, 8, 1, bias=False),
    )  # fmt: skip
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return block.eval()


def test_what_comes_before_and_after_joins_the_loops(check: Callable[..., Any]) -> None:
    program = check(_block(nn.ReLU6()), [torch.randn(2, 8, 9, 10)], Partition(epilogues=False))
    with_sums = [n for n in program.nests() if any(isinstance(s, Reduce) for s in n.body)]
    assert len(_convolutions(program)) == 2
    assert [n.covers for n in program.nests()] == [with_sums[0].covers]
    assert sum("batch_norm" in c for c in with_sums[0].covers) == 2


def test_costly_functions_are_not_computed_again_for_every_window(check: Callable[..., Any]) -> None:
    program = check(_block(nn.SiLU()), [torch.randn(2, 8, 9, 10)])
    assert sum(1 for _ in program.nests()) == 2


def test_both_orders_of_memory(check: Callable[..., Any]) -> None:
    check(_block(nn.Hardswish()), [torch.randn(2, 8, 9, 10)], Partition(channels_last=True))


def test_the_rewrite_has_a_name_and_can_be_turned_off() -> None:
    module, x = nn.Conv2d(4, 4, 3, groups=4).eval(), torch.randn(2, 4, 9, 10)
    graph = capture(module, [x], keep=TABLE)
    assert "windowed_convolution" in simplified(graph).rewrites
    off = simplified(graph, ["windowed_convolution"])
    assert "windowed_convolution" not in off.rewrites
    assert len(_convolutions(synthesise(off).program)) == 1
