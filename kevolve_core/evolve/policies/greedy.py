"""Greedy search: mutate the best so far, and explore less and less."""

from __future__ import annotations

from collections import deque

from kevolve_core.evolve.policies.elites import Elites, draw, score_of
from kevolve_core.model import Candidate, Evaluation, VerdictKind

__all__ = ["GreedyPolicy"]

#: Verdicts whose reason a generator can act on when nothing better is there to start from.
_MENDABLE = {VerdictKind.COMPILE_ERROR, VerdictKind.WRONG_RESULT, VerdictKind.RULE_VIOLATION}


class GreedyPolicy:
    """Parents are the top ``width`` by score, the better the likelier.

    The chance of a fresh draft starts at ``explore`` and halves every ``half_life`` proposals down to
    ``explore_least``; the first ``drafts`` proposals are drafts. While nothing was accepted, half of the
    proposals try to mend a recent failure. All defaults are estimated.
    """

    name = "greedy"

    def __init__(
        self,
        *,
        width: int = 8,
        drafts: int = 4,
        explore: float = 0.5,
        explore_least: float = 0.1,
        half_life: int = 32,
        crossover: float = 0.15,
    ) -> None:
        self._elites = Elites(width)
        self._failures: deque[str] = deque(maxlen=width)
        self._drafts = drafts
        self._explore = explore
        self._explore_least = explore_least
        self._half_life = half_life
        self._crossover = crossover

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        rng = draw(self.name, seed, sequence)
        chance = max(self._explore_least, self._explore * 0.5 ** (sequence / self._half_life))
        if not len(self._elites):
            if sequence < self._drafts or not self._failures or rng.random() < 0.5:
                return "draft", ()
            return "mutate", (self._failures[rng.randrange(len(self._failures))],)
        if sequence < self._drafts or rng.random() < chance:
            return "draft", ()
        if len(self._elites) > 1 and rng.random() < self._crossover:
            return "crossover", tuple(elite.candidate_id for elite in self._elites.pick_two(rng))
        return "mutate", (self._elites.pick(rng).candidate_id,)

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: the choice rests on scores alone."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        score = score_of(evaluation)
        if score is not None:
            self._elites.add(score, sequence, candidate.id)
        elif evaluation.verdict.kind in _MENDABLE and candidate.id not in self._failures:
            self._failures.append(candidate.id)
