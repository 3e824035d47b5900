"""The pool that a preference chooses a point from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from evolve_fakes import DEVICE, SPEC

from kevolve_core.evolve.points import PointGenerator
from kevolve_core.interfaces import Proposal
from kevolve_core.model import Candidate
from kevolve_core.space import Constraint, Parameter, Space

SPACE = Space(
    tuple(Parameter(name, (1, 2, 4, 8, 16), 1) for name in "abcde"),
    (Constraint("a·b ≤ 64", lambda point: bool(point["a"] * point["b"] <= 64)),),
)
PARENT = {"a": 2, "b": 2, "c": 2, "d": 2, "e": 2}


def kernel(point: Mapping[str, Any]) -> Candidate:
    return Candidate({"k.py": json.dumps(dict(point))}, "k.py", "fake", genome=dict(point))


def offered(operator: str, sequence: int = 7, attempt: int = 0) -> list[Mapping[str, Any]]:
    """The points that a preference was asked about."""
    asked: list[Mapping[str, Any]] = []

    def preference(points: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        asked.extend(points)
        return [0.0] * len(points)

    parents = (kernel(PARENT),) if operator != "draft" else ()
    context = Proposal(SPEC, DEVICE, sequence, 0, operator, parents, attempt=attempt, preference=preference)
    assert len(PointGenerator(SPACE, kernel).propose_now(context)) == 1
    return asked


def distance(point: Mapping[str, Any]) -> int:
    return sum(point[name] != value for name, value in PARENT.items())


def test_a_mutation_chooses_among_all_neighbours_and_points_from_anywhere() -> None:
    distances = [distance(point) for point in offered("mutate")]
    assert distances.count(1) == len(list(SPACE.neighbours(PARENT)))
    assert distances.count(4) + distances.count(5) > 100


@pytest.mark.parametrize("operator", ["draft", "mutate", "crossover"])
def test_a_pool_holds_legal_points_once_each_and_no_parent(operator: str) -> None:
    points = offered(operator)
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert [point for point in points if SPACE.violated(point) is not None] == []
    assert operator == "draft" or PARENT not in points


def test_further_attempts_choose_from_the_same_pool() -> None:
    assert offered("mutate") == offered("mutate", attempt=2)


def test_other_proposals_choose_from_other_pools() -> None:
    assert offered("mutate") != offered("mutate", sequence=8)
