"""Attention as one function: right, without a library call, and in parts where no block fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import render_harness as harness
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from kevolve_core.ir import Attention, Program
from kevolve_core.model import Device, Target
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified
from kevolve_cpu.render import CppRenderer
from kevolve_cpu.spaces import schedule_space

POINTS: Mapping[str, Mapping[str, Any]] = {
    "default": {"attention_lanes": 8, "attention_rows": 6},
    "small blocks": {
        "attention_lanes": 4, "attention_rows": 4, "attention_vectors": 1, "attention_block": 12,
        "attention_chunks": 2, "attention_depth": 16, "attention_skip_hidden": True,
    },
    "all keys": {"attention_lanes": 8, "attention_rows": 4, "attention_skip_hidden": False},
}  # fmt: skip


def _window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    n = q.shape[-2]
    row, col = torch.arange(n)[:, None], torch.arange(n)[None, :]
    seen = (col <= row) & (row - col < 10)
    return torch.softmax((q @ k.mT * 0.3).masked_fill(~seen, float("-inf")), -1) @ v


def _used(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.relu(attend(q, k, v).transpose(1, 2)) + 1.0


def _blind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    mask = torch.arange(35) + torch.arange(21)[:, None] > 30  # queries that see nothing give zeros
    return attend(q, k, v, attn_mask=mask)


def _draw(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(s) for s in sizes]


CASES: Mapping[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "other widths": (attend, ((2, 3, 21, 12), (2, 3, 35, 12), (2, 3, 35, 20))),
    "causal": (lambda q, k, v: attend(q, k, v, is_causal=True), ((1, 2, 290, 16),) * 3),
    "causal to more keys": (
        lambda q, k, v: attend(q, k, v, is_causal=True), ((2, 2, 21, 12), (2, 2, 35, 12), (2, 2, 35, 12))
    ),
    "masked": (_blind, ((2, 2, 21, 12), (2, 2, 35, 12), (2, 2, 35, 12))),
    "grouped": (
        lambda q, k, v: attend(q, k, v, enable_gqa=True), ((2, 4, 21, 12), (2, 2, 35, 12), (2, 2, 35, 12))
    ),
    "window": (_window, ((2, 35, 12),) * 3),
    "used at once": (_used, ((2, 2, 21, 12),) * 3),
}  # fmt: skip


def lowered(function: Callable[..., Any], inputs: list[torch.Tensor]) -> Program:
    graph = simplified(capture(function, inputs, keep=TABLE))
    return synthesise(graph, "main", Partition(attention=True)).program


ALL = [*((name, "small blocks") for name in CASES), ("causal", "default"), ("causal", "all keys")]


@pytest.mark.parametrize(("name", "point"), ALL)
def test_it_is_one_function_and_right(name: str, point: str) -> None:
    function, sizes = CASES[name]
    inputs = _draw(*sizes)
    candidate = harness.render(lowered(function, inputs), POINTS[point])
    assert candidate.libraries == ()
    got, want = harness.load(candidate).f(*inputs), function(*inputs)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-6)


def test_a_user_s_own_parts_multiply_what_is_infinite_by_zero() -> None:
    """A hidden key's infinite value makes every result NaN, unless hidden keys are skipped."""

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        hidden = torch.ones(24, 24, dtype=torch.bool).triu(1)
        return torch.softmax((q @ k.mT).masked_fill(hidden, float("-inf")), -1) @ v

    q, k, v = _draw((1, 24, 8), (1, 24, 8), (1, 24, 8))
    v[0, 23] = float("inf")
    program = lowered(causal, [q, k, v])
    assert bool(causal(q, k, v)[0, 0].isnan().all())
    assert bool(harness.load(harness.render(program)).f(q, k, v)[0, 0].isnan().all())
    skipped = {"attention_block": 4, "attention_rows": 4, "attention_skip_hidden": True}
    assert bool(harness.load(harness.render(program, skipped)).f(q, k, v)[0, 0].isfinite().all())


def test_half_precision_runs_in_parts() -> None:
    inputs = [x.to(torch.float16) for x in _draw(*[(2, 2, 21, 12)] * 3)]
    program = lowered(attend, inputs)
    (step,) = program.steps
    assert isinstance(step, Attention)
    assert CppRenderer().fuses(step) == "queries are computed on the way"
    candidate = harness.render(program)
    assert candidate.libraries == ("aten::bmm",)
    torch.testing.assert_close(harness.load(candidate).f(*inputs), attend(*inputs), rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
def test_the_default_fits_the_machine(vector_bytes: int) -> None:
    (step,) = lowered(attend, _draw(*[(2, 2, 500, 12)] * 3)).steps
    facts = {"cores": 4, "vector_bytes": vector_bytes}
    space = schedule_space(step, Device("cpu:0", "cpu", "cpu", Target("cpu", "none"), facts=facts))
    default = space.default()
    assert space.violated(default) is None
    assert (default["attention_lanes"] * 4, default["attention_chunks"]) == (vector_bytes, 2)
