"""What the store hands out: plain frozen rows. Times are seconds of activity since the run began, summed over
its sittings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from kevolve_core.model import VerdictKind, freeze

__all__ = ["EvaluationRow", "EventRow", "ProposalRow", "RunInfo", "StepRow"]


@frozen
class RunInfo:
    """The one row of run meta data.

    Args:
        created: UTC, ISO 8601.
        settings: what `RunStore.create` was given.
        search: the loop's own settings, None until it starts.
        secret: the number that input seeds are derived from.
        status: ``new``, ``running`` (also after a kill), ``interrupted``, ``failed`` or ``finished``.
        phase: ``search``, ``race``, ``confirm`` or ``done``.
        stopped: why the search ended, "" while it has not.
        reason: one line about the outcome, for a person.
        active_seconds: consumed over all sittings, as of the last row written.
        tokens: language-model tokens consumed.
        money: spent, in the provider's currency.
        final: (phase, sequence) of the evaluation that carries the result, if there is one.
    """

    created: str
    settings: Mapping[str, Any] = field(converter=freeze, hash=False)
    search: Mapping[str, Any] | None = field(hash=False)
    secret: int
    status: str
    phase: str
    stopped: str
    reason: str
    active_seconds: float
    tokens: int
    money: float
    final: tuple[str, int] | None


@frozen
class ProposalRow:
    """One proposal, as settled: duplicates and faults are rows too.

    ``candidate_id`` is None where the generator gave nothing; ``fault`` says why. ``duplicate_of`` is the
    sequence that first brought the same content. ``tokens`` and ``money`` are what this proposal cost.
    ``lane`` is ``warm`` or ``cold``, "" where the run has no lanes.
    """

    sequence: int
    operator: str
    parents: tuple[str, ...] = ()
    candidate_id: str | None = None
    generator: str = ""
    attempts: int = 1
    duplicate_of: int | None = None
    fault: str = ""
    tokens: int = 0
    money: float = 0.0
    at_seconds: float = 0.0
    lane: str = ""


@frozen
class EvaluationRow:
    """One evaluation without its body; ``reused_from`` names the paid one that a duplicate refers to."""

    phase: str
    sequence: int
    candidate_id: str
    verdict: VerdictKind
    score: float | None
    reused_from: int | None
    at_seconds: float


@frozen
class StepRow:
    """A proposal beside its evaluation (None while it has none)."""

    proposal: ProposalRow
    evaluation: EvaluationRow | None


@frozen
class EventRow:
    """Something worth keeping that is not a proposal or an evaluation (a sitting, a phase, a fault)."""

    at_seconds: float
    wall: str
    kind: str
    data: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
