"""Concatenations put together in place, compiled: nests that read and write slices of one buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import render_harness as harness
import torch
import torch.nn.functional as F

from kevolve_core.ir import Program
from kevolve_core.synth import joins
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

_random = torch.Generator().manual_seed(0)
X = torch.randn(3, 6, 9, 13, generator=_random)
W = torch.randn(5, 6, 3, 3, generator=_random) / 7


def dense(x: torch.Tensor) -> torch.Tensor:
    features = [F.max_pool2d(x, 3, 1, 1)]
    for k in range(3):
        joined = torch.cat(features, 1)
        features.append(F.conv2d((joined * (k + 2)).relu()[:, -6:].contiguous(), W, padding=1))
    return torch.cat(features, 1).sin()


def odd(x: torch.Tensor) -> torch.Tensor:
    """Slices that start at odd elements of rows, which vectors cross."""
    parts = [x[..., :k].softmax(1) for k in (13, 5, 8)]
    joined = torch.cat(parts, -1)
    return torch.cat((joined.cumsum(2), joined), 2).exp()


def branches(x: torch.Tensor) -> torch.Tensor:
    whole = torch.cat([F.conv2d(x, W * k, padding=1).relu() for k in (1, 2, 3)], 1)
    return F.conv2d(whole, torch.cat((W, W, W), 1)[:, :15])


def rows(x: torch.Tensor) -> torch.Tensor:
    a = x.flatten(1)
    made = [torch.tanh(a @ a.t() @ a * k).softmax(0) for k in (1, 2)]
    return torch.cat(made, 0) @ torch.cat(made, 0).t()


@pytest.mark.parametrize(
    "partition", [Partition(), Partition(channels_last=True)], ids=["contiguous", "channels last"]
)
@pytest.mark.parametrize("function", [dense, odd, branches, rows], ids=lambda f: f.__name__)
def test_results_are_eager_ones(
    function: Callable[..., Any], partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "WORTH", 1)
    graph = simplified(capture(function, [X], keep=TABLE))
    program: Program = synthesise(graph, "main", partition).program
    torch.testing.assert_close(harness.run(program, [X]), function(X), rtol=2e-5, atol=2e-5)


def test_a_generated_product_stores_into_its_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "WORTH", 1)

    def wide(x: torch.Tensor) -> torch.Tensor:
        a = x.flatten(1)
        return torch.cat([(a @ a.t()).relu(), (a.t() @ a)[:, :3] @ torch.ones(3, 3)], 0).cumsum(0)

    program = synthesise(simplified(capture(wide, [X], keep=TABLE)), "main").program
    got = harness.run(program, [X], {"implementation": "generated"})
    torch.testing.assert_close(got, wide(X), rtol=1e-3, atol=1e-2)
