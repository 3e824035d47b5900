"""Schedule spaces: tunables with finite choices and declared constraints, so that illegal points cost
nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

__all__ = ["Constraint", "Parameter", "Point", "Space"]

Point = Mapping[str, Any]
_ATTEMPTS = 200  # draws before falling back on the default; a space whose legal share is under 1/200 is a bug


@frozen
class Parameter:
    """One tunable. ``choices`` are JSON scalars in ascending or natural order, ``default`` one of them."""

    name: str
    choices: tuple[Any, ...]
    default: Any

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
    """The legal points over ``parameters``. The default point must be legal."""

    parameters: tuple[Parameter, ...] = ()
    constraints: tuple[Constraint, ...] = ()

    def default(self) -> dict[str, Any]:
        return {p.name: p.default for p in self.parameters}

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

    def neighbours(self, point: Point) -> Iterator[dict[str, Any]]:
        """Every legal point at distance one, in declaration order."""
        for p in self.parameters:
            for choice in p.choices:
                if choice != point.get(p.name) and self.violated(other := {**point, p.name: choice}) is None:
                    yield other

    def repaired(self, point: Point) -> dict[str, Any]:
        """``point`` restricted to this space's parameters and made legal: unknown keys dropped, missing or
        illegal values set to their default (a genome made for another case or version still gives a legal
        point)."""
        kept = {
            p.name: point[p.name] if point.get(p.name) in p.choices else p.default for p in self.parameters
        }
        return kept if self.violated(kept) is None else self.default()
