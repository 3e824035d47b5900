"""After the search: race the finalists, confirm the winner. Every step is stored, so a kill loses at most the
evaluations in flight."""

from __future__ import annotations

import asyncio

from kevolve_core.errors import StoreError
from kevolve_core.evolve.events import Evaluated, PhaseChanged
from kevolve_core.evolve.result import NOTHING_BETTER, beats_baseline
from kevolve_core.evolve.session import Session, StopRequestedError
from kevolve_core.model import Evaluation
from kevolve_core.store import EvaluationRow

__all__ = ["enter", "field_of", "finish", "outcome"]


_SPARE = 4  # times the finalists: so many are looked at for code that is not there yet (estimated)


async def finish(session: Session, stopped: str) -> None:
    """Race, confirm and store the outcome; goes on where an earlier sitting ended."""
    phase = session.store.info().phase
    if phase == "race":
        await _race(session)
        enter(session, "confirm", stopped)
        phase = "confirm"
    if phase == "confirm":
        await _confirm(session)
        enter(session, "done", stopped)


def enter(session: Session, phase: str, stopped: str) -> None:
    """Note that ``phase`` begins."""
    now = session.clock.seconds()
    session.store.set_phase(phase, active_seconds=now, stopped=stopped)
    session.store.record_event("phase", {"phase": phase, "stopped": stopped}, at_seconds=now)
    session.emit(PhaseChanged(phase, stopped, now, field_of(session, phase)))


def field_of(session: Session, phase: str) -> int:
    """How many candidates take part in ``phase``, at most."""
    if phase == "race":
        return len(_leaders(session)) if session.settings.race_stages else 0
    return len(_ranking(session)) if phase == "confirm" and session.settings.confirm_stages else 0


async def _race(session: Session) -> None:
    """The top of the search once more, measured with more care. All at once but no more than the window:
    the executor keeps timings apart."""
    settings = session.settings
    if not settings.race_stages:
        return
    runners = _fixed(session, "race", [row.candidate_id for row in _leaders(session)])
    places = asyncio.Semaphore(settings.window)

    async def one(sequence: int, candidate_id: str) -> None:
        async with places:
            await _evaluated(session, "race", sequence, candidate_id, settings.race_stages)

    tasks = [asyncio.create_task(one(n, candidate_id)) for n, candidate_id in enumerate(runners)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _confirm(session: Session) -> None:
    """The first finalist, best first, that passes the confirmation and beats the baseline there."""
    store, settings = session.store, session.settings
    ranking = _ranking(session)
    if not settings.confirm_stages:
        for row in ranking:
            evaluation = _stored(session, row)
            if beats_baseline(session.spec, evaluation):
                store.set_final(row.phase, row.sequence)
                return
        return
    order = _fixed(session, "confirm", [row.candidate_id for row in ranking])
    for sequence, candidate_id in enumerate(order):
        evaluation = await _evaluated(session, "confirm", sequence, candidate_id, settings.confirm_stages)
        if beats_baseline(session.spec, evaluation):
            store.set_final("confirm", sequence)
            return


def _ranking(session: Session) -> list[EvaluationRow]:
    """Finalists by the last phase that measured them, those dropped that were not faster there."""
    store, settings = session.store, session.settings
    rows = store.top(settings.finalists, "race") if settings.race_stages else _leaders(session)
    return [row for row in rows if row.score is not None and row.score > 1.0]


def _leaders(session: Session) -> list[EvaluationRow]:
    """The best of the search, one of each compiled code."""
    count = session.settings.finalists
    found: dict[str, EvaluationRow] = {}
    for row in session.store.top(count * _SPARE):
        compiled = _stored(session, row).stage("compile")
        code = "" if compiled is None else str(compiled.detail.get("code", ""))
        found.setdefault(code or row.candidate_id, row)
        if len(found) == count:
            break
    return list(found.values())


def _fixed(session: Session, phase: str, candidate_ids: list[str]) -> tuple[str, ...]:
    """Who takes part, as stored when the phase first began."""
    stored = session.store.finalists(phase)
    if stored or not candidate_ids:
        return stored
    session.store.record_finalists(phase, candidate_ids)
    return tuple(candidate_ids)


async def _evaluated(
    session: Session, phase: str, sequence: int, candidate_id: str, stages: tuple[str, ...]
) -> Evaluation:
    store = session.store
    stored = store.evaluation(phase, sequence)
    if stored is not None:
        return stored
    if session.stopping():
        raise StopRequestedError
    evaluation = await session.evaluate(store.candidate(candidate_id), stages, phase, sequence)
    store.record_evaluation(phase, sequence, evaluation, at_seconds=session.clock.seconds())
    session.emit(
        Evaluated(
            phase=phase,
            sequence=sequence,
            candidate_id=candidate_id,
            verdict=evaluation.verdict.kind,
            reason=evaluation.verdict.reason,
            score=evaluation.score if evaluation.accepted else None,
            reused_from=None,
            seconds=session.clock.seconds(),
            counts=store.counts(),
        )
    )
    return evaluation


def _stored(session: Session, row: EvaluationRow) -> Evaluation:
    evaluation = session.store.evaluation(row.phase, row.sequence)
    if evaluation is None:
        raise StoreError(
            "an evaluation vanished while the run was open",
            got=f"{row.phase} {row.sequence}",
            where=str(session.store.path),
            mend="make sure that nothing else writes to the run directory",
        )
    return evaluation


def outcome(session: Session) -> str:
    """The finished run in one line; where it gave nothing because nothing was proposed any more, also why."""
    info = session.store.info()
    row = None if info.final is None else session.store.evaluation_row(*info.final)
    if row is None or row.score is None:
        why = _want(session) if info.stopped == "exhausted" else ""
        return f"{NOTHING_BETTER}: {why}" if why else NOTHING_BETTER
    return f"kernel {row.candidate_id} is {row.score:.2f} times as fast as the best baseline"


def _want(session: Session) -> str:
    """What ended an exhausted search, in words: the fault of its last proposals, "" where they had none."""
    faults: list[str] = []
    for step in session.store.steps():
        faults = [*faults, step.proposal.fault] if step.proposal.candidate_id is None else []
    if not faults:
        return ""
    common = max(faults, key=faults.count)  # the first one among equals
    several = f"the last {len(faults)} proposals" if len(faults) > 1 else "the last proposal"
    return f"{several} gave no candidate ({common.splitlines()[0] if common else 'no reason given'})"
