"""What a proposal is asked for: lane, policy's choice, generator. A fold like the policies it is made of."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from attrs import field, frozen

from kevolve_core.evolve.policies.elites import score_of
from kevolve_core.evolve.shares import Shares
from kevolve_core.interfaces import Preferring, SelectionPolicy
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.space import Preference

__all__ = ["COLD", "WARM", "LaneChooser", "Memory", "Order", "Steering"]

WARM, COLD = "warm", "cold"


class LaneChooser(Protocol):
    """Splits a run's budget between the warm and the cold lane: a fold over `chosen` and `told`."""

    def choose(self, sequence: int, seed: int) -> str:
        """``warm`` or ``cold`` for proposal ``sequence``; pure in the state and its arguments."""
        ...

    def chosen(self, sequence: int, lane: str) -> None: ...

    def told(self, sequence: int, lane: str, score: float | None) -> None: ...

    def report(self) -> Mapping[str, Any]: ...


@frozen
class Memory:
    """What a run may remember of others.

    Args:
        mode: ``off`` (every proposal is cold), ``warm`` (every one is warm) or ``split``.
        lanes: decides where ``split``.
        experience: genomes that did well on similar problems, best first. The first drafts of the warm lane
            start from them, one each.
    """

    mode: str = "off"
    lanes: LaneChooser | None = None
    experience: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)


@frozen
class Order:
    """One proposal, as asked for. ``part`` names the generator of a mix, "" where there is none."""

    operator: str
    parents: tuple[str, ...] = ()
    lane: str = ""
    part: str = ""
    experience: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    preference: Preference | None = field(default=None, eq=False)


class Steering:
    """Asks one policy a lane. What the warm lane remembers never reaches the cold one; the warm lane learns
    from both, so that a split run knows in its warm lane all that an unsplit one would.

    Args:
        policy: a fresh one; the second lane gets a copy.
        seed: the run's.
        given: how many proposals at the start are the spec's own seeds; every lane is told of them.
        memory: None where the run has no lanes.
        parts: names of the generators of a mix; empty or a single one where there is none.
    """

    def __init__(
        self,
        policy: SelectionPolicy,
        seed: int,
        *,
        given: int = 0,
        memory: Memory | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        self._seed, self._given, self._memory = seed, given, memory
        lanes = {"off": (COLD,), "warm": (WARM,), "split": (WARM, COLD)}[memory.mode] if memory else ("",)
        self._policies = {lane: copy.deepcopy(policy) if n else policy for n, lane in enumerate(lanes)}
        self._shares = Shares(parts) if len(parts) > 1 else None
        self._flying: dict[int, tuple[str, str]] = {}  # sequence -> lane and part, until told or passed
        self._drafts = 0  # of the warm lane

    def ask(self, sequence: int) -> Order:
        """What proposal ``sequence`` is. Changes nothing."""
        if sequence < self._given:
            return Order("given")
        lane = self._lane(sequence)
        policy = self._policies[lane]
        operator, parents = policy.ask(sequence, self._seed)
        preference = policy.preference(sequence, self._seed) if isinstance(policy, Preferring) else None
        experience = self._memory.experience if self._memory and lane == WARM and operator == "draft" else ()
        return Order(
            operator=operator,
            parents=parents,
            lane=lane,
            part=self._shares.choose() if self._shares else "",
            experience=experience[self._drafts : self._drafts + 1],
            preference=preference,
        )

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Proposal ``sequence`` was asked for as `ask` said: also how a stored run is folded."""
        if sequence < self._given:
            for policy in self._policies.values():
                policy.asked(sequence, operator, parents)
            return
        lane = self._lane(sequence)
        if self._memory and self._memory.mode == "split" and self._memory.lanes:
            self._memory.lanes.chosen(sequence, lane)
        part = ""
        if self._shares:
            part = self._shares.choose()
            self._shares.chosen(part)
        for policy in self._learning(lane):
            policy.asked(sequence, operator, parents)
        self._drafts += lane == WARM and operator == "draft"
        self._flying[sequence] = (lane, part)

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """The evaluation of proposal ``sequence``."""
        if sequence < self._given:
            for policy in self._policies.values():
                policy.tell(sequence, candidate, evaluation)
            return
        lane, part = self._flying.pop(sequence)
        score = score_of(evaluation)
        for policy in self._learning(lane):
            policy.tell(sequence, candidate, evaluation)
        if self._memory and self._memory.mode == "split" and self._memory.lanes:
            self._memory.lanes.told(sequence, lane, score)
        if self._shares:
            self._shares.told(part, sequence, candidate.id, score, _tokens(candidate))

    def passed(self, sequence: int) -> None:
        """Nothing came of proposal ``sequence``, which says nothing about its lane."""
        _, part = self._flying.pop(sequence, ("", ""))
        if part and self._shares:
            self._shares.told(part, sequence, "", None, 0.0)

    def _learning(self, lane: str) -> Sequence[SelectionPolicy]:
        """The policies that see what is done in ``lane``."""
        return [policy for name, policy in self._policies.items() if name in (lane, WARM)]

    def _lane(self, sequence: int) -> str:
        if self._memory is None:
            return ""
        if self._memory.mode != "split" or self._memory.lanes is None:
            return COLD if self._memory.mode == "off" else WARM
        return self._memory.lanes.choose(sequence, self._seed)


def _tokens(candidate: Candidate) -> float:
    """What the generator notes that the candidate cost: unlike a meter, it does not depend on timing."""
    tokens = candidate.origin.notes.get("tokens", 0)
    return float(tokens) if isinstance(tokens, (int, float)) and tokens > 0 else 0.0
