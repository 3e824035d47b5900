"""Channels-last memory for library convolutions: what lies where, and that results stay what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kevolve_core.ir import LibraryCall, Program
from kevolve_core.synth.capture import capture
from kevolve_core.synth.channels import definite, preferred
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

LAST = Partition(channels_last=True)


def _graph(function: Callable[..., Any], inputs: Sequence[Any], without: Sequence[str] = ()) -> Graph:
    return simplified(capture(function, inputs, keep=TABLE), without)


def _program(function: Callable[..., Any], *inputs: torch.Tensor, without: Sequence[str] = ()) -> Program:
    return synthesise(_graph(function, inputs, without), "case", LAST).program


def _convolutions(program: Program) -> list[LibraryCall]:
    return [s for s in program.steps if isinstance(s, LibraryCall) and s.op == "aten::convolution"]


def _written(program: Program) -> list[str]:
    """What nests write, in order."""
    return [name for nest in program.nests() for name in nest.writes()]


class Block(nn.Module):
    """Convolution, normalisation, residual, pooling, flatten and a linear layer."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.e, self.f = nn.Conv2d(8, 16, 1), nn.Linear(16 * 2 * 2, 5)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.b(self.a(x)))
        z = F.max_pool2d(F.relu(self.d(self.c(y)) + y), 2)
        found: torch.Tensor = self.f(torch.flatten(F.relu(self.e(z)), 1))
        return found


X = torch.randn(2, 6, 7, 5)
VOLUME = torch.randn(2, 4, 3, 5, 4)
UP = nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1)
NETS: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
    "block": (Block(), torch.randn(2, 3, 4, 4)),
    "batch_of_one": (Block(), torch.randn(1, 3, 4, 4)),
    "one_channel": (Block(1), torch.randn(2, 1, 4, 4)),
    "one_pixel": (nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1)), torch.randn(3, 6, 1, 1)),
    "to_one_channel": (nn.Sequential(nn.Conv2d(6, 1, 3), nn.Tanh()), X),
    "alone": (nn.Conv2d(6, 4, 3), X),
    "depthwise": (nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Tanh()), X),
    "transposed": (lambda x: torch.clamp(UP(x) * 2, 0, 1), X),
    "group_norm": (nn.Sequential(nn.Conv2d(6, 8, 3), nn.GroupNorm(2, 8), nn.Sigmoid()), X),
    "layer_norm": (nn.Sequential(nn.Conv3d(4, 6, 2), nn.LayerNorm(3), nn.AvgPool3d((1, 2, 2))), VOLUME),
    "transposed_3d": (nn.Sequential(nn.ConvTranspose3d(4, 6, 2), nn.Softmax(1)), VOLUME),
    "kept_pooling": (nn.Sequential(nn.Conv2d(6, 4, 2), nn.AdaptiveAvgPool2d((4, 3)), nn.Conv2d(4, 3, 1)), X),
    "upsampled": (
        lambda x: F.conv2d(F.interpolate(F.relu(F.conv2d(x, W)), scale_factor=1.7, mode="bicubic"), W), X),
    "concatenated": (lambda x: torch.cat([x, F.relu(F.conv2d(x, W, padding=1))], 1).sin(), X),
    "positions": (lambda x: F.conv2d(x, W).relu().argmax(1) + F.conv2d(x, W).flatten(1).argmax(1)[0], X),
    "running": (lambda x: F.conv2d(x, W).cumsum(1), X),
    "permuted": (lambda x: F.conv2d(x.transpose(2, 3), W).permute(0, 2, 3, 1), X),
    "sliced": (lambda x: F.relu(F.conv2d(F.relu(F.conv2d(x, W, padding=1))[:, 1:4], W[:, :3])), X),
    "half": (lambda x: F.conv2d(x.bfloat16(), W.bfloat16()).relu(), X),
}  # fmt: skip
W = torch.randn(6, 6, 3, 3) / 7


def _leaves(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [x for v in value for x in _leaves(v)]


@pytest.mark.parametrize("name", NETS)
def test_results_and_their_strides_are_the_reference_s(name: str) -> None:
    net, x = NETS[name]
    with torch.no_grad():
        program = _program(net, x)
        assert any(c.order for c in _convolutions(program))
        state = net.state_dict() if isinstance(net, nn.Module) else {}
        got, want = _leaves(run_program(program, [x], state)), _leaves(net(x))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2 if name == "half" else 2e-5, atol=2e-4)
        assert a.stride() == b.stride()


def test_what_a_convolution_takes_and_gives_lies_channels_last() -> None:
    program = _program(Block(), torch.randn(2, 3, 4, 4))
    for call in _convolutions(program):
        read, wrote = call.operands[0], program.buffers[call.output]
        flat = torch.empty(read.offset + 10_000).as_strided(read.shape, read.strides)
        assert flat.is_contiguous(memory_format=torch.channels_last)
        assert call.order == (0, 2, 3, 1)
        assert wrote.strides is None
        assert wrote.shape[-1] in (8, 16)


def test_nothing_is_copied_between_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Tanh()
    ).eval()
    program = _program(net, torch.randn(2, 4, 9, 9))
    assert _written(program) == ["convolution_input", "relu", "tanh"]


def test_two_convolutions_share_the_conversion_of_an_input() -> None:
    program = _program(lambda x: F.conv2d(x, W).relu() + F.conv2d(x, 2 * W).sigmoid(), X)
    assert [n for n in _written(program) if n.endswith("_input")] == ["convolution_input"]


def test_a_channels_last_input_is_read_as_it_is() -> None:
    x = X.to(memory_format=torch.channels_last)
    assert _written(_program(lambda x: F.conv2d(x, W).relu(), x)) == ["relu"]


def test_where_both_orders_are_the_same_memory_nothing_is_converted() -> None:
    weight = torch.randn(3, 1, 2, 2)
    assert _written(_program(lambda x: F.conv2d(x, weight).relu(), torch.randn(2, 1, 5, 5))) == ["relu"]


def test_loops_of_channels_last_nests_are_one_where_nothing_is_broadcast() -> None:
    program = _program(lambda x: F.conv2d(F.conv2d(x, W, padding=1).relu(), W), X)
    nest = next(n for n in program.nests() if n.writes() == ("relu",))
    assert [a.extent for a in nest.axes] == [2, 7 * 5 * 6]


def test_channels_are_the_innermost_loop_of_a_nest_with_a_bias_a_channel() -> None:
    net = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    program = _program(net, X)
    nest = next(n for n in program.nests() if n.writes() == ("relu",))
    assert [a.extent for a in nest.axes] == [2, 5 * 3, 8]


def test_without_the_rewrite_the_partition_changes_nothing() -> None:
    graph = _graph(Block(), [torch.randn(2, 3, 4, 4)], ["channels_last"])
    assert graph.channels_last == ()
    assert "channels_last" not in graph.rewrites
    assert repr(synthesise(graph, "case", LAST).program) == repr(synthesise(graph, "case").program)


def test_float64_keeps_its_order() -> None:
    assert _graph(lambda x: F.conv2d(x, W.double()), [X.double()]).channels_last == ()


@pytest.mark.parametrize(
    ("net", "x", "wanted"),
    [
        (nn.Conv2d(6, 8, 3), X, True),
        (nn.ConvTranspose3d(4, 8, 2), VOLUME, True),
        (nn.Conv2d(6, 6, 3, groups=6), X, False),
        (nn.Conv2d(6, 6, 3, groups=2), X, False),
        (nn.Conv2d(3, 8, 3), torch.randn(2, 3, 5, 5), False),
        (nn.Conv1d(6, 8, 3), torch.randn(2, 6, 5), False),
    ],
)
def test_which_convolutions_prefer_it(net: nn.Module, x: torch.Tensor, wanted: bool) -> None:
    assert preferred(_graph(net, [x])) is wanted


def test_strides_say_channels_last_where_sizes_of_one_leave_it_open() -> None:
    assert definite((2, 1, 3, 4), (12, 12, 4, 1)) == (12, 1, 4, 1)
    assert definite((2, 5, 3, 4), (60, 12, 4, 1)) == (60, 12, 4, 1)
