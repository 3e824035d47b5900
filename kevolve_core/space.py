"""Schedule spaces: tunables with finite choices and declared constraints, so that illegal points cost
nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

__all__ = ["Constraint", "Parameter", "Point", "Preference", "Space", "preferred"]

Point = Mapping[str, Any]
#: How much a searcher would like each of several points or genomes to be tried: higher is better, -inf is one
#: that was tried. Pure, and callable from any thread.
Preference = Callable[[Sequence[Mapping[str, Any]]], Sequence[float]]
_ATTEMPTS = 200  # draws before falling back on the default; a space whose legal share is under 1/200 is a bug


@frozen
class Parameter:
    """One tunable. ``choices`` are JSON scalars in ascending or natural order, ``default`` one of them.
    ``coarse`` choices compute more coarsely than the operands' type does: a policy that holds results to that
    type's errors refuses them (`Space.exact`)."""

    name: str
    choices: tuple[Any, ...]
    default: Any
    coarse: tuple[Any, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.default not in self.choices:
            raise ValueError(f"parameter {self.name}: default {self.default!r} is not among {self.choices!r}")


@frozen
class Constraint:
    """A predicate that every legal point satisfies; ``text`` says it in words."""

    text: str
    holds: Callable[[Point], bool] = field(eq=False)


@frozen
class Space:
    """The legal points over ``parameters``. The default point must be legal. ``starts`` are partial points
    that whoever knows the target would try first, best first; what they leave out is the default."""

    parameters: tuple[Parameter, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    starts: tuple[Point, ...] = field(default=(), hash=False)

    def default(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.parameters}

    def started(self) -> list[dict[str, Any]]:
        """``starts`` as legal points, those left out that are not, or that come down to an earlier one."""
        known = {p.name: p.choices for p in self.parameters}
        found = [self.default()]
        for start in self.starts:
            point = {**self.default(), **start}
            if set(point) == set(known) and point not in found and self.is_legal(point):
                found.append(point)
        return found[1:]

    def exact(self) -> Space:
        """This space without the ``coarse`` choices of its parameters, a default excepted."""
        kept = tuple(
            evolve(p, choices=tuple(c for c in p.choices if c not in p.coarse or c == p.default), coarse=())
            for p in self.parameters
        )
        return evolve(self, parameters=kept)

    def violated(self, point: Point) -> Constraint | None:
        """The first constraint that ``point`` breaks, or None when it is legal."""
        return next((c for c in self.constraints if not c.holds(point)), None)

    def is_legal(self, point: Point) -> bool:
        known = {p.name: p.choices for p in self.parameters}
        return (
            set(point) == set(known)
            and all(v in known[k] for k, v in point.items())
            and not self.violated(point)
        )

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """A legal point, uniform over the parameters by rejection."""
        for _ in range(_ATTEMPTS):
            point = {p.name: rng.choice(p.choices) for p in self.parameters}
            if self.violated(point) is None:
                return point
        return self.default()

    def neighbour(self, point: Point, rng: random.Random) -> dict[str, Any]:
        """A legal point that differs from ``point`` in one parameter; ``point`` itself if there is none."""
        names = [p for p in self.parameters if len(p.choices) > 1]
        for _ in range(_ATTEMPTS):
            if not names:
                break
            p = rng.choice(names)
            other = {**point, p.name: rng.choice([c for c in p.choices if c != point.get(p.name)])}
            if self.violated(other) is None:
                return other
        return dict(point)

    def around(self, points: Sequence[Point], rng: random.Random, count: int) -> list[dict[str, Any]]:
        """Up to ``count`` distinct legal points near ``points`` (whose parameters are in declaration order),
        themselves left out: two thirds are at distance one, as far as there are so many, the rest two or
        three steps away, each of which goes to an adjacent choice half of the time."""
        if not points:
            return []
        free = [(p.name, p.choices) for p in self.parameters if len(p.choices) > 1]
        close = [near for point in points for near in self.neighbours(point)]
        rng.shuffle(close)
        found = {tuple(near.values()): near for near in close[: count * 2 // 3]}
        draw = rng.random  # `randrange` and `sample` would take most of the time
        for _ in range(2 * count if len(free) > 1 else 0):
            if len(found) >= count:
                break
            far = dict(points[int(draw() * len(points))])
            for _ in range(2 if draw() < 0.5 else 3):
                name, choices = free[int(draw() * len(free))]
                far[name] = _moved(choices, far[name], draw)
            if (key := tuple(far.values())) not in found and self.violated(far) is None:
                found[key] = far
        for point in points:
            found.pop(tuple(point[p.name] for p in self.parameters), None)
        return list(found.values())

    def anywhere(self, rng: random.Random, count: int) -> list[dict[str, Any]]:
        """Up to ``count`` distinct legal points of the whole space, uniform by rejection; fewer where less
        than one draw in eight is a new one."""
        free = [(p.name, p.choices, len(p.choices)) for p in self.parameters]
        draw = rng.random  # `choice` would take most of the time
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for _ in range(8 * count):
            if len(found) == count:
                break
            point = {name: choices[int(draw() * size)] for name, choices, size in free}
            if (key := tuple(point.values())) not in found and self.violated(point) is None:
                found[key] = point
        return list(found.values())

    def neighbours(self, point: Point) -> Iterator[dict[str, Any]]:
        """Every legal point at distance one, in declaration order."""
        for p in self.parameters:
            for choice in p.choices:
                if choice != point.get(p.name) and self.violated(other := {**point, p.name: choice}) is None:
                    yield other

    def repaired(self, point: Point) -> dict[str, Any]:
        """``point`` restricted to this space's parameters and made legal: unknown keys dropped, missing or
        illegal values set to their default (a genome made for another case or version still gives a legal
        point). Where the values do not go together, they are taken one after the other, in declaration
        order, as long as what results is legal."""
        kept = {
            p.name: point[p.name] if point.get(p.name) in p.choices else p.default for p in self.parameters
        }
        if self.violated(kept) is None:
            return kept
        legal = self.default()
        for name, value in kept.items():
            if value != legal[name] and self.violated(other := {**legal, name: value}) is None:
                legal = other
        return legal


def _moved(choices: Sequence[Any], value: Any, draw: Callable[[], float]) -> Any:
    """Another choice: an adjacent one half of the time."""
    place = choices.index(value)
    if draw() < 0.5:
        down = place > 0 and (place + 1 == len(choices) or draw() < 0.5)
        return choices[place - 1 if down else place + 1]
    return choices[(place + 1 + int(draw() * (len(choices) - 1))) % len(choices)]


def preferred(genomes: Sequence[Mapping[str, Any]], preference: Preference, skip: int = 0) -> int | None:
    """The place of the most preferred genome, or with ``skip`` of the one after so many better ones; None
    when all that is left was tried."""
    worth = preference(genomes)
    order = sorted((n for n in range(len(genomes)) if worth[n] > float("-inf")), key=lambda n: -worth[n])
    return order[skip] if skip < len(order) else None
