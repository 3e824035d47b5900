"""What a caller can watch: frozen events, delivered in the order things happen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from attrs import field, frozen

from kevolve_core.evolve.result import RunResult
from kevolve_core.model import VerdictKind, freeze

__all__ = [
    "Emitter",
    "Evaluated",
    "Event",
    "NewBest",
    "PhaseChanged",
    "Preparing",
    "Proposed",
    "ProposalFailed",
    "RunFinished",
    "RunStarted",
    "Subscriber",
]

_log = logging.getLogger("kevolve.evolve")


@frozen
class Preparing:
    """What is done before the search begins, in words: the specification is checked, baselines are
    compiled."""

    step: str


@frozen
class RunStarted:
    """A sitting begins. ``proposals``, ``seconds`` and ``counts`` (evaluations of the search by verdict) are
    what earlier sittings left; ``phase`` is where it goes on, with up to ``finalists`` candidates."""

    name: str
    seed: int
    resumed: bool
    proposals: int
    seconds: float
    phase: str = "search"
    finalists: int = 0
    counts: Mapping[str, int] = field(factory=dict, converter=freeze, hash=False)


@frozen
class Proposed:
    """A candidate was settled and goes to evaluation, or is the duplicate of an earlier proposal."""

    sequence: int
    operator: str
    parents: tuple[str, ...]
    candidate_id: str
    generator: str
    duplicate_of: int | None
    seconds: float


@frozen
class ProposalFailed:
    """The generator raised or gave nothing."""

    sequence: int
    operator: str
    fault: str
    seconds: float


@frozen
class Evaluated:
    """An evaluation was stored. ``counts`` are the search's paid evaluations by verdict, this one included;
    ``sequence`` counts within ``phase``."""

    phase: str
    sequence: int
    candidate_id: str
    verdict: VerdictKind
    reason: str
    score: float | None
    reused_from: int | None
    seconds: float
    counts: Mapping[str, int] = field(converter=freeze, hash=False)


@frozen
class NewBest:
    """The search has a new leader (not yet raced or confirmed)."""

    sequence: int
    candidate_id: str
    score: float
    seconds: float


@frozen
class PhaseChanged:
    """``search`` → ``race`` → ``confirm`` → ``done``; ``stopped`` says why the search ended, ``finalists``
    how many candidates take part in the phase at most."""

    phase: str
    stopped: str
    seconds: float
    finalists: int = 0


@frozen
class RunFinished:
    """The sitting ends, finished or not."""

    result: RunResult


Event = Preparing | RunStarted | Proposed | ProposalFailed | Evaluated | NewBest | PhaseChanged | RunFinished
Subscriber = Callable[[Event], None]


class Emitter:
    """Hands events to one subscriber; what it raises is logged and goes no further."""

    def __init__(self, subscriber: Subscriber | None) -> None:
        self._subscriber = subscriber

    def __call__(self, event: Event) -> None:
        if self._subscriber is None:
            return
        try:
            self._subscriber(event)
        except Exception:
            _log.exception("an event subscriber failed on %s; the run goes on", type(event).__name__)
