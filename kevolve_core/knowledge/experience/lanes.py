"""`Lanes`: how a run's proposals are split between a lane with memory and one without.

Retrieved examples make a search succeed sooner and anchor it: published experience had failures fall from
55 % to 21 % with memory, and a worse best kernel at the end (KernelEvolve, arXiv 2512.23236). So neither lane
ever gets everything, and the one that brings the run's better candidates gets more.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import deque
from collections.abc import Mapping

from attrs import frozen

from kevolve_core.errors import ConfigError, suggest

__all__ = ["COLD", "MODES", "WARM", "LaneReport", "Lanes"]

WARM, COLD = "warm", "cold"

#: ``off``: everything cold; ``warm``: everything warm; ``split``: both, adaptively.
MODES = ("off", "warm", "split")

_TOP = 8  # a score among the run's best so many is a gain (estimated)


@frozen
class LaneReport:
    """One lane at the end of a run.

    Args:
        lane: ``warm`` or ``cold``.
        proposals: how many it was given.
        share: of all proposals.
        accepted, failed: evaluated ones; those without an outcome are neither.
        best: its best score, None where it has none.
        best_at: the sequence that brought it.
    """

    lane: str
    proposals: int
    share: float
    accepted: int
    failed: int
    best: float | None
    best_at: int | None


class _Lane:
    def __init__(self, window: int) -> None:
        self.proposals = self.accepted = self.failed = 0
        self.best: float | None = None
        self.best_at: int | None = None
        self._recent: deque[bool] = deque(maxlen=window)

    def told(self, sequence: int, score: float | None, gain: bool) -> None:
        self._recent.append(gain)
        if score is None:
            self.failed += 1
            return
        self.accepted += 1
        if self.best is None or score > self.best:
            self.best, self.best_at = score, sequence

    def promise(self, rng: random.Random) -> float:
        """A draw of the chance that its next proposal is among the run's best, given the last ones."""
        gains = sum(self._recent)
        return rng.betavariate(gains + 1, len(self._recent) - gains + 1)


class Lanes:
    """Chooses a lane for every proposal: by Thompson sampling (Biometrika 25, 1933) on how many of a lane's
    last proposals were among the run's best when they were told.

    A fold over `chosen` and `told` in sequence order; `choose` is pure in that state, the seed and the
    sequence, so that a resumed run takes the same decisions. O(1) a call.

    Args:
        mode: one of `MODES`.
        floor: with ``split``, the share below which no lane falls.
        window: outcomes of a lane that count.
    """

    def __init__(self, mode: str = "split", *, floor: float = 0.1, window: int = 24) -> None:
        if mode not in MODES:
            raise ConfigError(
                "there is no such use of memory",
                got=mode,
                mend=suggest(mode, MODES) or f"one of: {', '.join(MODES)}",
            )
        if not 0 <= floor <= 0.5 or window < 1:
            raise ConfigError("lanes need a floor of 0 to 0.5 and a window of 1 or more", got=(floor, window))
        self.mode = mode
        self._floor = floor
        self._lanes = {WARM: _Lane(window), COLD: _Lane(window)}
        self._top: list[float] = []  # of both lanes, ascending

    def choose(self, sequence: int, seed: int) -> str:
        """``warm`` or ``cold`` for proposal ``sequence``. With ``split`` the first two go one to each."""
        if self.mode != "split":
            return WARM if self.mode == WARM else COLD
        if sequence < 2:
            return (WARM, COLD)[sequence]
        rng = random.Random(f"lanes:{seed}:{sequence}")
        if rng.random() < 2 * self._floor:
            return rng.choice((WARM, COLD))
        return max((WARM, COLD), key=lambda lane: self._lanes[lane].promise(rng))

    def chosen(self, sequence: int, lane: str) -> None:
        """Proposal ``sequence`` was made in ``lane``."""
        del sequence
        self._lanes[lane].proposals += 1

    def told(self, sequence: int, lane: str, score: float | None) -> None:
        """Its outcome: a score, higher is better, or None where it failed."""
        gain = score is not None and (len(self._top) < _TOP or score > self._top[0])
        if score is not None and gain:
            insort(self._top, score)
            del self._top[:-_TOP]
        self._lanes[lane].told(sequence, score, gain)

    def report(self) -> Mapping[str, LaneReport]:
        """Lane -> what became of it."""
        total = sum(lane.proposals for lane in self._lanes.values()) or 1
        return {
            name: LaneReport(
                lane=name,
                proposals=lane.proposals,
                share=lane.proposals / total,
                accepted=lane.accepted,
                failed=lane.failed,
                best=lane.best,
                best_at=lane.best_at,
            )
            for name, lane in self._lanes.items()
        }
