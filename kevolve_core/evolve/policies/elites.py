"""A bounded ranking of accepted candidates, and what every policy draws with."""

from __future__ import annotations

import bisect
import math
import random

from attrs import field, frozen

from kevolve_core.model import Evaluation

__all__ = ["Elite", "Elites", "draw", "score_of"]


def draw(name: str, seed: int, sequence: int) -> random.Random:
    """Random numbers of one decision: from the run's seed and the sequence alone, so that nothing needs to be
    stored to take the same decision again."""
    return random.Random(f"{name}:{seed}:{sequence}")


def score_of(evaluation: Evaluation) -> float | None:
    """The score of an accepted candidate, None where there is none to rank by."""
    score = evaluation.score
    return score if evaluation.accepted and score is not None and math.isfinite(score) else None


@frozen(order=True)
class Elite:
    """Orders best first; the earlier one wins among equals."""

    loss: float
    sequence: int
    candidate_id: str = field(order=False)


class Elites:
    """The best ``capacity`` distinct candidates seen. Constant memory; O(capacity) a call."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ranked: list[Elite] = []

    def __len__(self) -> int:
        return len(self._ranked)

    def __getitem__(self, rank: int) -> Elite:
        return self._ranked[rank]

    def add(self, score: float, sequence: int, candidate_id: str) -> None:
        if any(elite.candidate_id == candidate_id for elite in self._ranked):
            return
        bisect.insort(self._ranked, Elite(-score, sequence, candidate_id))
        del self._ranked[self._capacity :]

    def would_take(self, score: float) -> bool:
        """Whether `add` would keep a new candidate of this score."""
        return len(self) < self._capacity or -score < self._ranked[-1].loss

    def pick(self, rng: random.Random) -> Elite:
        """One of them, the better the likelier (the lower of two uniform ranks)."""
        return self._ranked[min(rng.randrange(len(self)), rng.randrange(len(self)))]

    def pick_two(self, rng: random.Random) -> tuple[Elite, Elite]:
        """Two different ones, best first; needs at least two."""
        first = self.pick(rng)
        others = [elite for elite in self._ranked if elite is not first]
        second = others[min(rng.randrange(len(others)), rng.randrange(len(others)))]
        return (first, second) if first < second else (second, first)
