"""Lowering a function and evaluating the program that comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from kevolve_core.ir import Program
from kevolve_core.synth.capture import capture
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, Synthesised, synthesise
from kevolve_core.synth.simplify import simplified

Lower = Callable[..., Synthesised]
Check = Callable[..., Program]


def _lower(
    function: Callable[..., Any], inputs: Sequence[Any], partition: Partition | None = None
) -> Synthesised:
    return synthesise(simplified(capture(function, inputs, keep=TABLE)), "case", partition)


def _ulps(tensor: torch.Tensor) -> float:
    """Relative tolerance: a few units of the last place of the result's dtype."""
    return {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-9}.get(tensor.dtype, 2e-5)


def _close(got: Any, want: Any) -> None:
    if isinstance(want, torch.Tensor):
        assert got.shape == want.shape
        tolerance = _ulps(want)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            _close(got[key], want[key])
    else:
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            _close(a, b)


def _check(
    function: Callable[..., Any], inputs: Sequence[Any], partition: Partition | None = None
) -> Program:
    """The program, after comparing what it computes with eager PyTorch."""
    want = function(*[v.clone() if isinstance(v, torch.Tensor) else v for v in inputs])
    program = _lower(function, inputs, partition).program
    state = function.state_dict() if isinstance(function, torch.nn.Module) else {}
    _close(run_program(program, inputs, state), want)
    return program


@pytest.fixture
def lower() -> Lower:
    return _lower


@pytest.fixture
def check() -> Check:
    return _check


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
