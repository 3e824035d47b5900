"""A bandit over policies: whoever has brought most lately is asked most."""

from __future__ import annotations

from collections.abc import Mapping

from kevolve_core.evolve.policies.elites import score_of
from kevolve_core.evolve.shares import Shares
from kevolve_core.interfaces import Preferring, SelectionPolicy
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.space import Preference

__all__ = ["BanditPolicy"]


class BanditPolicy:
    """Every proposal is asked of one policy and told to all, so that none starts from nothing when its turn
    comes. Whose turn it is, `Shares` says: in proportion to how often a policy's proposals entered the best
    eight.

    Args:
        policies: by name, each fresh.
    """

    name = "bandit"

    def __init__(self, policies: Mapping[str, SelectionPolicy]) -> None:
        self._policies = dict(policies)
        self._shares = Shares(tuple(self._policies))
        self._flying: dict[int, str] = {}

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        return self._policies[self._shares.choose()].ask(sequence, seed)

    def preference(self, sequence: int, seed: int) -> Preference | None:
        """That of the policy whose turn it is."""
        policy = self._policies[self._shares.choose()]
        return policy.preference(sequence, seed) if isinstance(policy, Preferring) else None

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        name = self._shares.choose()
        self._shares.chosen(name)
        self._policies[name].asked(sequence, operator, parents)
        self._flying[sequence] = name
        if len(self._flying) > 64:  # faults are never told; no window is that wide
            del self._flying[next(iter(self._flying))]

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        name = self._flying.pop(sequence, None)
        if name is not None:
            self._shares.told(name, sequence, candidate.id, score_of(evaluation), 0.0)
        for policy in self._policies.values():
            policy.tell(sequence, candidate, evaluation)
