"""A generator over one schedule space: what tunes a parametrised kernel, and what replays recorded spaces."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from kevolve_core.interfaces import Proposal
from kevolve_core.model import Candidate, Origin
from kevolve_core.space import Point, Space, preferred

__all__ = ["PointGenerator", "drawn"]

# Points that a preference chooses from, near the parents and anywhere: enough for all neighbours of a few
# parents and some of those two steps away, at 10 to 20 ms a proposal (estimated).
_NEAR, _ANYWHERE = 320, 256
_TRIES = 32  # draws of a point other than the parents' (estimated)


def drawn(context: Proposal, space: Space, parents: Sequence[Point]) -> Point | None:
    """The point for a proposal: of a draft a uniform one, of a mutation a neighbour, of a crossover a mix.
    With a preference, the most preferred of a pool of such. None when there is nothing new."""
    rng = random.Random(f"{context.seed}:{context.sequence}")
    operator = context.operator if parents else "draft"
    if context.preference is not None and operator != "sample":
        pool = _pool(space, operator, parents, rng)
        place = preferred(pool, context.preference, context.attempt) if pool else None
        return None if place is None else pool[place]
    rng = random.Random(f"{context.seed}:{context.sequence}:{context.attempt}")
    for _ in range(_TRIES):
        point = _single(space, operator, parents, rng)
        if point not in parents:
            return point
    return None


def _pool(space: Space, operator: str, parents: Sequence[Point], rng: random.Random) -> list[dict[str, Any]]:
    """Distinct points, the parents left out: near them (but for a draft) and from all of the space, so that
    a preference is never shut in where the parents are."""
    near = space.around(parents, rng, _NEAR) if operator != "draft" else []
    points = [*near, *space.anywhere(rng, _ANYWHERE)]
    found = {tuple(point.values()): point for point in points}
    for point in parents:
        found.pop(tuple(point[p.name] for p in space.parameters), None)
    return list(found.values())


def _single(space: Space, operator: str, parents: Sequence[Point], rng: random.Random) -> dict[str, Any]:
    if operator in {"draft", "sample"}:
        return space.sample(rng)
    if operator == "crossover" and len(parents) > 1:
        mixed = {p.name: rng.choice(parents[:2])[p.name] for p in space.parameters}
        point = space.repaired(mixed)
        return point if rng.random() < 0.5 else space.neighbour(point, rng)
    point = space.neighbour(parents[0], rng)
    return point if rng.random() < 0.7 else space.neighbour(point, rng)


class PointGenerator:
    """Proposes points of ``space``, each a candidate by ``render``. The first proposal is the default point;
    a draft with experience is the point of that.

    A candidate's genome is its point, so that parents and preferences speak of points.
    """

    name = "points"

    def __init__(self, space: Space, render: Callable[[Point], Candidate]) -> None:
        self._space = space
        self._render = render

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """One candidate, or none when nothing new was found."""
        del n
        return self.propose_now(context)

    def propose_now(self, context: Proposal) -> Sequence[Candidate]:
        """`propose` without an event loop."""
        parents = [self._space.repaired(p.genome) for p in context.parents if p.genome is not None]
        point: Point | None
        if context.sequence == 0 and context.attempt == 0:
            point = self._space.default()
        elif context.experience and context.attempt == 0:
            point = self._space.repaired(context.experience[0])
        else:
            point = drawn(context, self._space, parents)
        if point is None:
            return []
        parts = tuple(parent.id for parent in context.parents)
        return [self._render(point).with_origin(Origin(self.name, context.operator), parts)]
