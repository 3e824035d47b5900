"""Several generators in one run, and a tuner for what they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve

from kevolve_core.errors import ConfigError
from kevolve_core.evolve.points import drawn
from kevolve_core.evolve.session import Metered, Usage
from kevolve_core.interfaces import CodeGenerator, Journaled, Learner, Proposal
from kevolve_core.model import Candidate, Evaluation, Origin
from kevolve_core.space import Point
from kevolve_core.tunables import GENERATOR, Tunables, declared, tuned

__all__ = ["MixedGenerator"]


class MixedGenerator:
    """Answers for the generator that `Proposal.part` names, so that structure comes from whoever knows it
    and numbers from the tuner: its part sets the tunables that a parent declares (`kevolve_core.tunables`),
    by the policy's preference. Where a parent declares none, and for drafts, the generator that the parent
    came from answers in the tuner's place, else the first.

    Args:
        generators: by name, in a fixed order.
        name: None is their names joined by ``+``.
    """

    def __init__(self, generators: Mapping[str, CodeGenerator], name: str | None = None) -> None:
        self._generators = dict(generators)
        self.name = "+".join(self._generators) if name is None else name

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the generators, and the tuner."""
        return (*self._generators, GENERATOR)

    @property
    def learns(self) -> bool:
        """Whether any of them learns, or writes from knowledge."""
        return any(isinstance(part, Learner) for part in self._generators.values())

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """What the named part proposes. A candidate that declares tunables gets its point as genome."""
        if context.part == GENERATOR and context.operator != "draft":
            candidate = self._tuned(context)
            if candidate is not None:
                return [candidate]
        offered = await self._generators[self._name(context)].propose(context, n)
        return [_with_genome(candidate) for candidate in offered]

    def _name(self, context: Proposal) -> str:
        if context.part in self._generators:
            return context.part
        names = [parent.origin.generator for parent in context.parents[:1]]
        return next((name for name in names if name in self._generators), next(iter(self._generators)))

    def _tuned(self, context: Proposal) -> Candidate | None:
        """The first parent at another point, or None where it has none."""
        parent = next(iter(context.parents), None)
        tunables = None if parent is None else _declared(parent)
        if parent is None or tunables is None:
            return None
        points: list[Point] = []
        for other in context.parents:
            if (same := _declared(other)) is not None and same.structure == tunables.structure:
                points.append(same.space.default())
        point = drawn(_ranked(context, tunables), tunables.space, points)
        if point is None:
            return None
        origin = Origin(GENERATOR, context.operator, {"structure_of": parent.origin.generator})
        parents = tuple(each.id for each in context.parents)
        return tuned(parent, tunables, point).with_origin(origin, parents)

    # --- what some generators have beside `propose` ---------------------------------------------------------

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """For the parts that learn."""
        for part in self._generators.values():
            if isinstance(part, Learner):
                part.tell(sequence, candidate, evaluation)

    def open(self, run: Path, *, tokens: int | None = None, money: float | None = None) -> None:
        """For the parts that keep a journal."""
        for part in self._generators.values():
            if isinstance(part, Journaled):
                part.open(run, tokens=tokens, money=money)

    async def close(self) -> None:
        """For the parts that keep a journal."""
        for part in self._generators.values():
            if isinstance(part, Journaled):
                await part.close()

    def usage(self) -> Usage:
        """What all parts have consumed."""
        spent = [part.usage() for part in self._generators.values() if isinstance(part, Metered)]
        return Usage(sum(each.tokens for each in spent), sum(each.money for each in spent))

    def check(self) -> None:
        """Every part's own check, where it has one."""
        for part in self._generators.values():
            check = getattr(part, "check", None)
            if check is not None:
                check()


def _ranked(context: Proposal, tunables: Tunables) -> Proposal:
    """``context`` with a preference that speaks of points instead of genomes."""
    inner = context.preference
    if inner is None:
        return context

    def of_points(points: Sequence[Point]) -> Sequence[float]:
        return inner([tunables.genome(point) for point in points])

    return evolve(context, preference=of_points)


def _declared(candidate: Candidate) -> Tunables | None:
    """None also for a declaration that cannot be used: the candidate is then as good as any other."""
    try:
        return declared(candidate)
    except ConfigError:
        return None


def _with_genome(candidate: Candidate) -> Candidate:
    tunables = _declared(candidate) if candidate.genome is None else None
    return (
        candidate if tunables is None else evolve(candidate, genome=tunables.genome(tunables.space.default()))
    )
