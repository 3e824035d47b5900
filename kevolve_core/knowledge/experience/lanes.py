"""`Lanes`: how a run's proposals are split between a lane with memory and one without.

Retrieved examples make a search succeed sooner and anchor it: published experience had failures fall from
55 % to 21 % with memory, and a worse best kernel at the end (KernelEvolve, arXiv 2512.23236). So neither lane
ever gets everything, and the one that still makes progress gets more.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping

from attrs import frozen

from kevolve_core.errors import ConfigError, suggest

__all__ = ["COLD", "MODES", "WARM", "LaneReport", "Lanes"]

WARM, COLD = "warm", "cold"

#: ``off``: everything cold; ``warm``: everything warm; ``split``: both, adaptively.
MODES = ("off", "warm", "split")

_PROGRESS = 0.01  # a score this much above the lane's best so far is progress, less is noise (estimated)


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

    def told(self, sequence: int, score: float | None) -> None:
        if score is None:
            self.failed += 1
            self._recent.append(False)
            return
        self.accepted += 1
        if self.best is not None:  # the first score of a lane is a start, not progress
            self._recent.append(score > self.best * (1 + _PROGRESS))
        if self.best is None or score > self.best:
            self.best, self.best_at = score, sequence

    @property
    def promise(self) -> float:
        """Chance that the next proposal makes progress in its lane, by Laplace's rule over the last ones."""
        return (sum(self._recent) + 1) / (len(self._recent) + 2)


class Lanes:
    """Chooses a lane for every proposal.

    A fold over `chosen` and `told` in sequence order; `choose` is pure in that state, the seed and the
    sequence, so that a resumed run takes the same decisions. O(1) a call.

    Args:
        mode: one of `MODES`.
        floor: with ``split``, the share below which no lane falls.
        window: outcomes of a lane that count.
    """

    def __init__(self, mode: str = "split", *, floor: float = 0.25, window: int = 24) -> None:
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

    @property
    def share(self) -> float:
        """The part of the next proposals that goes to the warm lane."""
        if self.mode != "split":
            return 1.0 if self.mode == WARM else 0.0
        warm, cold = self._lanes[WARM].promise, self._lanes[COLD].promise
        return min(1 - self._floor, max(self._floor, warm / (warm + cold)))

    def choose(self, sequence: int, seed: int) -> str:
        """``warm`` or ``cold`` for proposal ``sequence``. With ``split`` the first two go one to each."""
        if self.mode == "split" and sequence < 2:
            return (WARM, COLD)[sequence]
        return WARM if random.Random(f"lanes:{seed}:{sequence}").random() < self.share else COLD

    def chosen(self, sequence: int, lane: str) -> None:
        """Proposal ``sequence`` was made in ``lane``."""
        del sequence
        self._lanes[lane].proposals += 1

    def told(self, sequence: int, lane: str, score: float | None) -> None:
        """Its outcome: a score, higher is better, or None where it failed."""
        self._lanes[lane].told(sequence, score)

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
