"""Sums over short windows as straight-line code, and what neighbours share of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve

from kevolve_core.ir import Load, LoopNest, Program, Reduce, loads_of
from kevolve_core.languages.windows import jammed, misaligned, overlapping, reach, unrolled
from kevolve_core.synth.capture import capture
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

torch.manual_seed(0)
WEIGHTS = {3: torch.randn(4, 1, 3, 3), 5: torch.randn(4, 1, 5, 5)}


def _program(function: Callable[..., Any], *inputs: torch.Tensor, **choices: Any) -> Program:
    return synthesise(simplified(capture(function, inputs, keep=TABLE)), "a", Partition(**choices)).program


def _nest(function: Callable[..., Any], *inputs: torch.Tensor, **choices: Any) -> LoopNest:
    nest = list(_program(function, *inputs, **choices).nests())[-1]
    assert any(isinstance(s, Reduce) for s in nest.body)
    return nest


def _loads(nest: LoopNest, buffer: str) -> set[Load]:
    return {e for root in nest.expressions() for e in loads_of(root) if e.buffer == buffer}


def depthwise(x: torch.Tensor, stride: int = 1, size: int = 3) -> torch.Tensor:
    return F.conv2d(x, WEIGHTS[size], stride=stride, padding=1, groups=4)


SLIDING: Mapping[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "depthwise": (depthwise, (2, 4, 9, 11)),
    "strided": (lambda x: depthwise(x, 2, 5), (2, 4, 9, 11)),
    "pool, 1d": (lambda x: F.avg_pool1d(x, 8, 1, 4), (2, 4, 31)),
    "pool, 2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 4, 15, 17)),
    "pool without overlap": (lambda x: F.avg_pool2d(x.relu(), 2), (2, 4, 16, 18)),
}


@pytest.mark.parametrize("name", SLIDING)
@pytest.mark.parametrize("together", [1, 2, 3])
def test_unrolled_and_jammed_windows_compute_the_same(name: str, together: int) -> None:
    function, shape = SLIDING[name]
    x = torch.randn(shape)
    program = _program(function, x)

    def changed(step: Any) -> Any:
        nest = unrolled(step)
        assert not any(isinstance(s, Reduce) for s in nest.body)
        axis = overlapping(nest)
        return jammed(nest, axis, together) if axis else nest

    steps = tuple(changed(s) if isinstance(s, LoopNest) else s for s in program.steps)
    got = run_program(evolve(program, steps=steps), [x], {})
    torch.testing.assert_close(got, function(x), rtol=1e-5, atol=1e-6)


def test_neighbours_share_rows_of_the_image_and_all_share_a_weight() -> None:
    nest = unrolled(_nest(depthwise, torch.randn(2, 4, 9, 11)))
    assert overlapping(nest) == nest.axes[-2].name
    assert len(_loads(nest, "x0")) == 9
    weights = [b for b in nest.reads() if b != "x0"]
    for together, rows in ((2, 4), (4, 6)):
        both = jammed(nest, overlapping(nest), together)
        assert len(_loads(both, "x0")) == 3 * rows
        assert [len(_loads(both, b)) for b in weights] == [9]


def test_a_loop_that_the_count_does_not_divide_ends_where_it_did() -> None:
    nest = unrolled(_nest(depthwise, torch.randn(2, 4, 7, 11)))
    assert jammed(nest, nest.axes[-2].name, 4).axes[-2].extent == 2
    assert jammed(nest, nest.axes[-2].name, 1) == nest


NOT: Mapping[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "whole planes": (lambda x: x.mean((2, 3)), (8, 16, 7, 7)),
    "channels": (lambda x: x.sum(1), (8, 16, 7, 7)),
    "a maximum": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 4, 15, 17)),
    "a long window": (lambda x: F.avg_pool1d(x, 100, 1, 50), (2, 4, 301)),
    "few results": (lambda x: F.avg_pool2d(x, 3), (1, 1, 9, 12)),
    "far apart": (lambda x: F.avg_pool1d(x, 8, 8), (8, 16, 80)),
}


@pytest.mark.parametrize("name", NOT)
def test_other_reductions_are_left_alone(name: str) -> None:
    function, shape = NOT[name]
    nest = _nest(function, torch.randn(shape))
    assert unrolled(nest) is nest


def test_whole_planes_of_channels_last_memory_are_left_alone() -> None:
    def f(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w).mean((2, 3))

    inputs = (torch.randn(8, 4, 9, 9), torch.randn(16, 4, 3, 3))
    nest = list(_program(f, *inputs, channels_last=True).nests())[-1]
    assert unrolled(nest) is nest


def test_where_vectors_begin_and_how_far_a_point_reaches() -> None:
    across = unrolled(_nest(depthwise, torch.randn(2, 4, 9, 12)))
    assert (misaligned(across), reach(across)) == (True, 2 * 12 + 2)
    weight = torch.randn(4, 1, 3, 1)
    down = unrolled(_nest(lambda x: F.conv2d(x, weight, groups=4), torch.randn(2, 4, 64, 64)))
    assert (misaligned(down), reach(down)) == (False, 128)
