"""Tensors put together from parts: conditions are decided by cutting the loop, not evaluated a point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kevolve_core.ir import Expr, Load, LoopNest, Op, Program, Store, walk
from kevolve_core.synth.genome import Genome
from kevolve_core.synth.program import Partition

X = torch.randn(3, 5, 7, 64, generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 5, 7, 64, generator=torch.Generator().manual_seed(1))


def rotate_half(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * y + torch.cat((-b, a), -1)


def joined_channels(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.cat((x, y, 2 * x), 1))


def unequal(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[..., :32], y), -1).exp()


def recurrence(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    h, states = torch.zeros_like(x[:, :, 0]), []
    for t in range(x.shape[2]):
        h = torch.sigmoid(x[:, :, t]) * h + y[:, :, t]
        states.append(h)
    return torch.stack(states, 2)


EXAMPLES = [rotate_half, joined_channels, unequal, recurrence]


def conditions(program: Program) -> list[Expr]:
    nests = [s for s in program.steps if isinstance(s, LoopNest)]
    found = [n for nest in nests for e in nest.expressions() for n in walk(e)]
    return [n for n in found if (isinstance(n, Op) and n.name == "where") or (isinstance(n, Load) and n.mask)]


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda f: f.__name__)
def test_no_condition_is_left(check: Callable[..., Any], function: Callable[..., Any]) -> None:
    assert conditions(check(function, [X, Y])) == []


@pytest.mark.parametrize("function", EXAMPLES, ids=lambda f: f.__name__)
def test_turned_off_the_conditions_stay_and_the_result_is_the_same(
    check: Callable[..., Any], function: Callable[..., Any]
) -> None:
    assert conditions(check(function, [X, Y], Partition(segments=False)))


def test_a_narrow_border_is_not_worth_copies_of_the_body(check: Callable[..., Any]) -> None:
    program = check(lambda x: torch.nn.functional.pad(x, (1, 1, 1, 1)) * 2, [X])
    assert [len(s.body) for s in program.steps] == [1]


def table(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    angles = torch.outer(torch.arange(7.0), y[0, 0, 0])
    return x * angles.cos() + angles.sin()


def test_costly_functions_of_few_positions_are_kept_in_memory(
    check: Callable[..., Any], lower: Callable[..., Any]
) -> None:
    assert lower(table, [X, Y]).tables == ("cos", "sin")
    assert [s.name for s in check(table, [X, Y]).steps][:2] == ["k_cos", "k_sin"]
    apart = check(table, [X, Y], Partition(recomputed=frozenset(["cos", "sin"])))
    assert len(apart.steps) == 1


def test_statistics_of_a_row_are_no_table(lower: Callable[..., Any]) -> None:
    assert lower(lambda x, y: x * y.mean(-1, keepdim=True).exp(), [X, Y]).tables == ()


def test_a_genome_says_what_is_recomputed_and_not_cut() -> None:
    genome = Genome("cpp", Partition(recomputed=frozenset(["cos"]), segments=False))
    assert genome == Genome.parsed(genome.plain())


def test_a_recurrence_of_hundreds_of_steps_is_not_inlined_into_itself(check: Callable[..., Any]) -> None:
    def long(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = x[0]
        for t in range(1, x.shape[0]):
            h = torch.tanh(h) * y[t] + x[t]
        return h

    generator = torch.Generator().manual_seed(0)
    check(long, [torch.randn(150, 4, generator=generator), torch.randn(150, 4, generator=generator)])


def test_a_stack_of_many_parts_is_several_nests_that_are_alike(check: Callable[..., Program]) -> None:
    """100 parts are two times 50 stores, none of them under a condition."""

    def stacked(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.mm(x, y) + k for k in range(100)])

    program = check(stacked, [X[0, 0], X[0, 0].t().contiguous()])
    nests = [n for n in program.nests() if "out0" in n.writes() or len(n.body) > 1]
    assert [sum(isinstance(s, Store) for s in n.body) for n in nests] == [50, 50]
    assert not any(isinstance(e, Op) and e.name == "where" for n in nests for e in _parts(n))


def _parts(nest: LoopNest) -> list[Expr]:
    return [e for root in nest.expressions() for e in walk(root)]
