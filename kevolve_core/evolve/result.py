"""What a run came to, read from its store: the same for a run that ended, was stopped or was killed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import evolve, field, frozen

from kevolve_core.errors import KevolveError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation, VerdictKind, freeze
from kevolve_core.store import EvaluationRow, ProposalRow, RunStore

__all__ = ["NOTHING_BETTER", "BestAt", "RunResult", "Share", "TrajectoryPoint", "beats_baseline", "collect"]

NOTHING_BETTER = "no kernel beat the baseline"


@frozen
class TrajectoryPoint:
    """One proposal and what became of it. Equal in two runs that took the same way, whatever the clock said.

    ``best`` is the best score of the search so far, None while nothing was accepted; ``reused_from`` is the
    sequence whose evaluation a duplicate refers to.
    """

    sequence: int
    operator: str
    parents: tuple[str, ...]
    candidate_id: str | None
    verdict: VerdictKind | None
    score: float | None
    best: float | None
    reused_from: int | None
    seconds: float = field(eq=False)


@frozen
class BestAt:
    """What had been consumed when the best candidate's first evaluation was stored."""

    sequence: int
    seconds: float
    evaluations: int
    tokens: int
    money: float


@frozen
class Share:
    """What one generator brought in one lane. ``lane`` is "" where the run has no lanes; ``best`` is a score
    of the search, ``best_at`` the proposal that brought it; duplicates are neither accepted nor failed."""

    lane: str
    generator: str
    proposals: int = 0
    accepted: int = 0
    failed: int = 0
    best: float | None = None
    best_at: int | None = None


@frozen
class RunResult:
    """The outcome.

    Args:
        best: the winner, or None when nothing beat the baseline.
        evaluation: the evaluation that stands behind ``best``: the confirmation where ``confirmed``.
        confirmed: ``best`` passed every finishing phase; otherwise the run is unfinished and ``best`` only
            leads the search.
        stopped: why the search ended: ``candidates``, ``seconds``, ``tokens``, ``money``, ``stall``,
            ``headroom``, ``exhausted``, ``cancelled``, ``fault``; "" while it has not.
        reason: the outcome in one line.
        resumable: `resume` goes on from here.
        trajectory: every proposal of the search, in order.
        counts: evaluations paid in the search, by verdict.
        seconds: active wall time over all sittings.
        evaluations: evaluations paid in the search.
        duplicates: proposals whose content was known.
        best_at: what it took to find ``best``.
        shares: who brought what, by lane and generator.
        error: the fault of the installation that ended the run, if one did.
    """

    best: Candidate | None
    evaluation: Evaluation | None
    confirmed: bool
    stopped: str
    reason: str
    resumable: bool
    trajectory: tuple[TrajectoryPoint, ...]
    counts: Mapping[str, int] = field(converter=freeze, hash=False)
    seconds: float
    evaluations: int
    duplicates: int
    tokens: int
    money: float
    best_at: BestAt | None
    shares: tuple[Share, ...] = ()
    error: KevolveError | None = field(default=None, eq=False)

    @property
    def score(self) -> float | None:
        """Speed-up of ``best`` over the best baseline."""
        return self.evaluation.score if self.evaluation is not None else None


def beats_baseline(spec: KernelSpec, evaluation: Evaluation) -> bool:
    """Accepted, faster, and surely so: the score is above 1 and the low ends of the latest ratio intervals
    of the timed cases, averaged as the score is (weighted geometric mean), are not below 1."""
    score = evaluation.score
    if not evaluation.accepted or score is None or not score > 1.0:
        return False
    weight, total = 0.0, 0.0
    for case in spec.timed_cases:
        measurement = evaluation.measurement(case.name)
        ratio = measurement.best_ratio if measurement is not None else None
        if ratio is None:
            continue
        if not ratio.low > 0.0:
            return False
        weight += case.weight
        total += case.weight * math.log(ratio.low)
    return total >= 0.0 if weight else True


def collect(store: RunStore, *, error: KevolveError | None = None, stopped: str | None = None) -> RunResult:
    """The result as the store has it; one pass over the run, reads only. ``error`` and ``stopped`` are how
    the sitting ended, where the caller knows."""
    trajectory: list[TrajectoryPoint] = []
    leading: float | None = None
    duplicates = 0
    costs: list[ProposalRow] = []
    shares: dict[tuple[str, str], Share] = {}
    for step in store.steps():
        row, done = step.proposal, step.evaluation
        score = done.score if done is not None and done.verdict is VerdictKind.ACCEPTED else None
        if score is not None and (leading is None or score > leading):
            leading = score
        duplicates += row.duplicate_of is not None
        key = (row.lane, row.generator)
        shares[key] = _with(shares.get(key, Share(*key)), row.sequence, done)
        if row.tokens or row.money:
            costs.append(row)
        trajectory.append(
            TrajectoryPoint(
                sequence=row.sequence,
                operator=row.operator,
                parents=row.parents,
                candidate_id=row.candidate_id,
                verdict=None if done is None else done.verdict,
                score=None if done is None else done.score,
                best=leading,
                reused_from=None if done is None else done.reused_from,
                seconds=row.at_seconds if done is None else done.at_seconds,
            )
        )
    info = store.info()
    finished = info.status == "finished"
    best, evaluation = _best(store, info.final, finished)
    counts = store.counts()
    return RunResult(
        best=best,
        evaluation=evaluation,
        confirmed=finished and best is not None,
        stopped="fault" if error is not None else stopped or info.stopped,
        reason=info.reason if error is None else error.what,
        resumable=not finished,
        trajectory=tuple(trajectory),
        counts=counts,
        seconds=info.active_seconds,
        evaluations=sum(counts.values()),
        duplicates=duplicates,
        tokens=info.tokens,
        money=info.money,
        best_at=None if best is None else _best_at(best.id, trajectory, costs),
        shares=tuple(shares[key] for key in sorted(shares)),
        error=error,
    )


def _with(share: Share, sequence: int, done: EvaluationRow | None) -> Share:
    paid = done is not None and done.reused_from is None
    accepted = done is not None and done.verdict is VerdictKind.ACCEPTED
    score = done.score if done is not None and accepted else None
    leads = score is not None and (share.best is None or score > share.best)
    return evolve(
        share,
        proposals=share.proposals + 1,
        accepted=share.accepted + (paid and accepted),
        failed=share.failed + (paid and not accepted),
        best=score if leads else share.best,
        best_at=sequence if leads else share.best_at,
    )


def _best(
    store: RunStore, final: tuple[str, int] | None, finished: bool
) -> tuple[Candidate | None, Evaluation | None]:
    if final is not None:
        evaluation = store.evaluation(*final)
    elif finished:
        return None, None
    else:
        leader = next(iter(store.top(1)), None)
        evaluation = store.evaluation("search", leader.sequence) if leader is not None else None
        if evaluation is not None and not beats_baseline(store.spec, evaluation):
            return None, None
    return (None, None) if evaluation is None else (store.candidate(evaluation.candidate_id), evaluation)


def _best_at(candidate_id: str, trajectory: list[TrajectoryPoint], costs: list[ProposalRow]) -> BestAt | None:
    first = next((p for p in trajectory if p.candidate_id == candidate_id), None)
    if first is None:
        return None
    until = first.seconds
    return BestAt(
        sequence=first.sequence,
        seconds=until,
        evaluations=sum(
            p.seconds <= until and p.verdict is not None and p.reused_from is None for p in trajectory
        ),
        tokens=sum(row.tokens for row in costs if row.at_seconds <= until),
        money=sum(row.money for row in costs if row.at_seconds <= until),
    )
