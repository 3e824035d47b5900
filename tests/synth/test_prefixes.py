"""Exclusive running sums and products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.ir import Scan
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition
from kevolve_core.synth.simplify import simplified


def exclusive(x: torch.Tensor) -> torch.Tensor:
    sums = torch.cumsum(x.narrow(1, 0, x.size(1) - 1), 1)
    return torch.cat((torch.zeros_like(x.select(1, 0).unsqueeze(1)), sums), 1)


EXCLUSIVE: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros like": exclusive,
    "ones": lambda x: torch.cat((torch.ones(2, 9), torch.cumprod(x, 0)), 0),
    "full": lambda x: torch.cat((torch.full((5, 1), 0.0), x.cumsum(-1)), -1).exp(),
    "padded": lambda x: F.pad(x.cumsum(0), (0, 0, 3, 0)),
    "from the far end": lambda x: torch.cat((x.flip(1).cumsum(1).flip(1), torch.zeros(5, 2)), 1),
}
OTHERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ones before a sum": lambda x: torch.cat((torch.ones(5, 1), x.cumsum(1)), 1),
    "zeros after a sum": lambda x: torch.cat((x.cumsum(1), torch.zeros(5, 1)), 1),
    "zeros along another dimension": lambda x: torch.cat((torch.zeros(1, 9), x.cumsum(1)), 0),
    "a sum that others read": lambda x: torch.cat((torch.zeros(5, 1), s := x.cumsum(1)), 1).sum() + s,
    "more zeros than terms": lambda x: torch.cat((torch.zeros(5, 10), x.cumsum(1)), 1),
    "padded with another value": lambda x: F.pad(x.cumsum(1), (1, 0), value=1.0),
    "padded on both sides": lambda x: F.pad(x.cumsum(1), (1, 1)),
}


@pytest.mark.parametrize("name", EXCLUSIVE)
def test_an_exclusive_scan_is_one_nest_that_writes_everything(check: Callable[..., Any], name: str) -> None:
    x = torch.randn(5, 9)
    program = check(EXCLUSIVE[name], [x])
    assert len(program.steps) == 1
    assert len([s for nest in program.nests() for s in nest.body if isinstance(s, Scan)]) == 1
    assert "padded_scans" in simplified(capture(EXCLUSIVE[name], [x], keep=TABLE)).rewrites


@pytest.mark.parametrize("name", EXCLUSIVE)
def test_the_concatenation_stays_a_choice(check: Callable[..., Any], name: str) -> None:
    check(EXCLUSIVE[name], [torch.randn(5, 9)], Partition(padded=False))


@pytest.mark.parametrize("name", OTHERS)
def test_other_concatenations_are_left_alone(check: Callable[..., Any], name: str) -> None:
    x = torch.randn(5, 9)
    check(OTHERS[name], [x])
    assert "padded_scans" not in simplified(capture(OTHERS[name], [x], keep=TABLE)).rewrites


def test_infinities_are_where_they_were(check: Callable[..., Any]) -> None:
    x = torch.randn(3, 8)
    x[0, 2], x[1, 7], x[2, 0] = float("inf"), float("nan"), float("-inf")
    check(exclusive, [x])


def test_whole_numbers_and_half_precision(check: Callable[..., Any]) -> None:
    check(exclusive, [torch.randint(-9, 9, (4, 7))])
    check(exclusive, [torch.randn(4, 7).half()])


def test_the_rewrite_can_be_turned_off() -> None:
    graph = capture(exclusive, [torch.randn(4, 7)], keep=TABLE)
    assert "padded_scans" not in simplified(graph, ["padded_scans"]).rewrites
