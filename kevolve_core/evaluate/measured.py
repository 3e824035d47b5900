"""Which code was measured already, so that a search pays for it once."""

from __future__ import annotations

from concurrent.futures import Future
from threading import Lock

from attrs import define, field

from kevolve_core.evaluate.trial import Trial
from kevolve_core.model import Evaluation

__all__ = ["Measured"]

#: Stages whose outcome stands for all candidates of the same code. Later ones exist to measure again.
_SHARED = frozenset({"rules", "compile", "small", "cases", "quick"})


@define
class Measured:
    """The first evaluation of each code, under way or done. Thread-safe."""

    _first: dict[tuple[str, frozenset[str]], tuple[str, Future[Evaluation]]] = field(factory=dict, init=False)
    _lock: Lock = field(factory=Lock, init=False)

    def first(self, trial: Trial, own: Future[Evaluation]) -> Future[Evaluation] | None:
        """The earlier evaluation of the trial's code, for another candidate, by the same stages. None where
        there is none that went well, or nothing is known of the code: ``own`` is then the first. Whoever asks
        for the same candidate again wants it measured again."""
        stages = frozenset(trial.request.stages)
        if not trial.code or not stages <= _SHARED or "quick" not in stages:
            return None
        with self._lock:
            owner = trial.request.candidate.id
            whose, earlier = self._first.get((trial.code, stages), (owner, own))
            if whose != owner and not (earlier.done() and _failed(earlier)):
                return earlier
            self._first[trial.code, stages] = (owner, own)
            return None


def _failed(future: Future[Evaluation]) -> bool:
    """It ended by a fault of the installation, which says nothing of the code."""
    return future.cancelled() or future.exception() is not None
