"""What a surrogate learns from: a bounded choice of everything told."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Sequence

from attrs import evolve, field, frozen

from kevolve_core.evolve.policies.features import Features

__all__ = ["Example", "Examples"]

_BEST, _FAILED, _OTHERS = 128, 64, 64  # the model's costs grow with the cube of their sum (estimated)


@frozen(order=True)
class Example:
    """Best first; the earlier one wins among equals. ``loss`` is minus the logarithm of the score, so that
    gains are ratios of time; infinite for a failure. ``times`` counts how often it was measured."""

    loss: float
    sequence: int
    candidate_id: str = field(order=False)
    features: Features = field(order=False, hash=False)
    times: int = field(order=False, default=1)


class Examples:
    """The best ones, the latest failures and the latest others. Constant memory; O(1) in the population."""

    def __init__(self) -> None:
        self._best: list[Example] = []
        self._failed: deque[Example] = deque(maxlen=_FAILED)
        self._others: deque[Example] = deque(maxlen=_OTHERS)

    def __len__(self) -> int:
        return len(self._best) + len(self._failed) + len(self._others)

    @property
    def best(self) -> Sequence[Example]:
        """Best first."""
        return self._best

    def all(self) -> tuple[Example, ...]:
        """Everything kept; the order depends on what was told alone."""
        return (*self._best, *self._others, *self._failed)

    def add(self, example: Example) -> None:
        """One more measurement. A candidate measured before counts with the mean of its losses."""
        if math.isinf(example.loss):
            self._failed.append(example)
            return
        earlier = next((e for e in self._best if e.candidate_id == example.candidate_id), None)
        if earlier is not None:
            self._best.remove(earlier)
            times = earlier.times + 1
            loss = earlier.loss + (example.loss - earlier.loss) / times
            example = evolve(earlier, loss=loss, times=times)
        bisect.insort(self._best, example)
        if len(self._best) > _BEST:
            self._others.append(self._best.pop())
