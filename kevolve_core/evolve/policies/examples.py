"""What a surrogate learns from: a bounded choice of everything told, labelled good or bad."""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Sequence

from attrs import evolve, field, frozen

from kevolve_core.evolve.policies.features import Features

__all__ = ["Example", "Examples", "labelled"]

_BEST, _FAILED, _OTHERS = 128, 128, 256  # a few hundred rows keep a forest cheap (estimated)
_LEAST = 4  # good examples at least: fewer say nothing about what they share (estimated)


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


def labelled(examples: Sequence[Example], good: float) -> tuple[list[float], list[float]]:
    """Labels and weights for the likelihood-free estimate of expected improvement (Song et al. 2022,
    https://proceedings.mlr.press/v162/song22b.html): the best share ``good`` of what was measured is good and
    weighs by how far it is beyond the threshold; everything else is bad, failures included.

    Half of a good example's weight is the same for all, so that one outlier does not outweigh the others
    (estimated).
    """
    losses = sorted(e.loss for e in examples if math.isfinite(e.loss))
    count = min(len(losses) - 1, max(_LEAST, math.ceil(good * len(losses))))
    threshold = losses[count]
    gains = [max(0.0, threshold - e.loss) for e in examples]
    number = sum(gain > 0 for gain in gains)
    mean = sum(gains) / number if number else 1.0
    weights = [0.5 + 0.5 * gain / mean if gain > 0 else 1.0 for gain in gains]
    return [float(gain > 0) for gain in gains], weights
