"""What a run's language models were asked so far and what became of it.

It gives siblings to prompts and outcomes to the choice of models: a function of what was told and asked.
"""

from __future__ import annotations

from collections import deque

from kevolve_core.llm.bandit import Outcome
from kevolve_core.llm.config import ModelRef
from kevolve_core.llm.context import Sibling
from kevolve_core.llm.ledger import Cost
from kevolve_core.model import Candidate, Evaluation

__all__ = ["Past"]

_MEMORY = 200  # proposals back from which siblings are taken (estimated)
_RIGHT = 0.25  # what a kernel that is right at all counts for (estimated)


class Past:
    """Of one run."""

    def __init__(self) -> None:
        self._told: deque[tuple[int, Candidate, Evaluation]] = deque(maxlen=_MEMORY * 2)
        self._rewards: dict[int, float] = {}
        self._calls: dict[int, dict[str, tuple[str, ModelRef, Cost]]] = {}
        self._best = 0.0

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        """The evaluation of proposal ``sequence``."""
        self._told.append((sequence, candidate, evaluation))
        if evaluation.accepted:
            score = evaluation.score or 0.0
            self._best = max(self._best, score)
            share = score / self._best if self._best > 0 else 0.0
            self._rewards[sequence] = _RIGHT + (1 - _RIGHT) * share

    def asked(self, sequence: int, role: str, model: ModelRef, key: str, cost: Cost) -> None:
        """Request ``key`` for proposal ``sequence`` and what it cost."""
        self._calls.setdefault(sequence, {})[key] = (role, model, cost)

    def tokens(self, sequence: int) -> int:
        """Of all requests for that proposal."""
        return sum(cost.tokens for _, _, cost in self._calls.get(sequence, {}).values())

    def outcomes(self, told: int, priced: bool) -> list[Outcome]:
        """What every model made of its requests for proposals under ``told``, by money where all are
        ``priced``, else by tokens."""
        found: list[Outcome] = []
        for sequence, calls in self._calls.items():
            if not 0 <= sequence < told:
                continue
            reward = self._rewards.get(sequence, 0.0)
            for role, model, cost in calls.values():
                amount = cost.money if priced else float(cost.tokens)
                if role != "mend":
                    found.append(Outcome(sequence, role, model, reward, amount))
        return sorted(found, key=lambda o: (o.sequence, str(o.model), o.cost))

    def siblings(self, parent: str, told: int, count: int) -> list[Sibling]:
        """The best and the latest ``count`` earlier children of the first parent ``parent``."""
        window = range(max(0, told - _MEMORY), told)
        found = [
            Sibling(candidate, evaluation)
            for sequence, candidate, evaluation in self._told
            if sequence in window and parent in candidate.parents[:1]
        ]
        ranked = sorted(found, key=lambda s: -(s.evaluation.score or 0.0))
        best = ranked[: (count + 1) // 2]
        latest = [s for s in reversed(found) if s not in best]
        return [*best, *latest][:count]
