"""The search: a fixed window of proposals, told in the order they were asked.

Each proposal is one task that lives through four steps: drawn from the generator (any number at a time),
settled (numbered content or a recorded fault; strictly in sequence), evaluated (any order), told to the
policy (strictly in sequence, and only when the window demands it). Because only settling and telling touch
what decides the next proposal, the trajectory is a function of the seed and the evaluations, not of timing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from kevolve_core.evolve.events import Evaluated, NewBest, ProposalFailed, Proposed
from kevolve_core.evolve.headroom import at_floor
from kevolve_core.evolve.proposing import Draft, Proposer
from kevolve_core.evolve.sameness import source_key
from kevolve_core.evolve.session import Composite, Metered, Session, Usage
from kevolve_core.evolve.slot import Slot
from kevolve_core.evolve.steering import Order, Steering
from kevolve_core.interfaces import Learner
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.store import ProposalRow, StepRow
from kevolve_core.store.faults import damaged

__all__ = ["Search"]

_POLL_SECONDS = 0.1  # how soon a stop is noticed while nothing else happens (estimated)
# What evaluations in flight get when the time is up: this share of the budget, and at least so many seconds
# (estimated).
_GRACE_SHARE, _GRACE_SECONDS = 0.1, 2.0
_CLEANUP_SECONDS = 5.0  # what a cancelled generator gets for its own clean-up (estimated)
_PHASE = "search"


class Search:
    """One sitting of the search. `restore` folds what is stored; `run` goes on from there."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._proposer = Proposer(session)
        self._steering = Steering(
            session.policy,
            session.settings.seed,
            given=len(session.spec.seeds),
            memory=session.memory,
            parts=session.generator.parts if isinstance(session.generator, Composite) else (),
        )
        self._slots: dict[int, Slot] = {}  # told < sequence ≤ asked: never more than the window
        self._next = self._settled = self._told = 0
        self._distinct = self._empties = self._repeats = 0
        self._counts: Counter[str] = Counter()
        self._leader: float | None = None  # in order of completion, for the events
        self._best: float | None = None  # in order of telling, for the decisions
        self._since_best = 0
        self._at_floor = False
        meter = session.generator
        self._meter: Callable[[], Usage] = meter.usage if isinstance(meter, Metered) else Usage
        self._usage = self._meter()
        self._tokens, self._money = 0, 0.0
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def proposals(self) -> int:
        """How many are settled."""
        return self._settled

    # -- resuming --------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Rebuild all state from the store: one pass, in the order in which it happened."""
        store = self._session.store
        for step in store.steps():
            if step.proposal.sequence != self._next:
                raise damaged("a proposal is missing from the run", str(store.path), self._next)
            self._tell_ready()
            if self._told <= self._next - self._session.settings.window:
                raise damaged("an evaluation is missing from the run", str(store.path), self._told)
            self._restore(step)
        for sequence, slot in self._slots.items():
            if slot.candidate_id is not None:
                self._load(sequence, slot)
        self._counts.update(store.counts())
        leader = next(iter(store.top(1)), None)
        self._leader = None if leader is None else leader.score
        info = store.info()
        self._tokens, self._money = info.tokens, info.money

    def _restore(self, step: StepRow) -> None:
        row = step.proposal
        self._steering.asked(row.sequence, row.operator, row.parents)
        order = Order(row.operator, row.parents, row.lane)
        slot = Slot(row.sequence, order, candidate_id=row.candidate_id, settled=True)
        slot.duplicate_of = row.duplicate_of
        if row.candidate_id is None or step.evaluation is not None:
            slot.closed.set()
        self._slots[row.sequence] = slot
        self._next = self._settled = row.sequence + 1
        self._count(row.candidate_id is None, row.duplicate_of is not None, row.operator)

    def _load(self, sequence: int, slot: Slot) -> None:
        store = self._session.store
        if slot.candidate is None and slot.candidate_id is not None:
            slot.candidate = store.candidate(slot.candidate_id)
            slot.evaluation = store.evaluation(_PHASE, sequence) if slot.closed.is_set() else None

    # -- the loop --------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Search until something ends it; returns why (see `RunResult.stopped`). With ``cancelled`` the
        search is not over and may be resumed.

        Raises:
            KevolveError: a fault of the installation or the store; what is stored stays.
        """
        for slot in list(self._slots.values()):
            if not slot.closed.is_set():
                slot.task = asyncio.create_task(self._guard(self._finish(slot)))
        try:
            while True:
                self._tell_ready()
                if stopped := self._stopped():
                    break
                if self._may_ask():
                    self._ask()
                else:
                    await self._pause()
            stopped = await self._drain(stopped)
        finally:
            await self._abandon(list(self._slots.values()))
        if self._fault is not None:
            raise self._fault
        return stopped

    def _tell_ready(self) -> None:
        """Tell what the next ask demands, and no more: up to ``next - window``."""
        while self._told <= self._next - self._session.settings.window:
            slot = self._slots[self._told]
            if not slot.closed.is_set():
                return
            self._load(slot.sequence, slot)
            self._since_best += 1
            if slot.candidate is not None and slot.evaluation is not None:
                self._steering.tell(slot.sequence, slot.candidate, slot.evaluation)
                if isinstance(self._session.generator, Learner):
                    self._session.generator.tell(slot.sequence, slot.candidate, slot.evaluation)
                self._weigh(slot.evaluation)
            else:
                self._steering.passed(slot.sequence)
            del self._slots[self._told]
            self._told += 1

    def _weigh(self, evaluation: Evaluation) -> None:
        score = evaluation.score if evaluation.accepted else None
        if score is None or (self._best is not None and score <= self._best):
            return
        self._best, self._since_best = score, 0
        headroom = self._session.settings.budget.floor_headroom
        self._at_floor = headroom is not None and at_floor(self._session.spec, evaluation, headroom)

    def _stopped(self) -> str:
        budget, settings = self._session.settings.budget, self._session.settings
        if self._fault is not None:
            return "fault"
        if self._session.stopping():
            return "cancelled"
        if self._proposer.capped:
            return self._proposer.capped
        if self._empties >= settings.empties or self._repeats >= settings.duplicates:
            return "exhausted"
        if budget.candidates is not None and self._distinct >= budget.candidates:
            return "candidates"
        if self._overtime():
            return "seconds"
        if budget.tokens is not None and self._tokens >= budget.tokens:
            return "tokens"
        if budget.money is not None and self._money >= budget.money:
            return "money"
        if budget.stall is not None and self._since_best >= budget.stall:
            return "stall"
        return "headroom" if self._at_floor else ""

    def _overtime(self) -> bool:
        limit = self._session.settings.budget.seconds
        return limit is not None and self._session.clock.seconds() >= limit

    def _deadlines(self) -> tuple[float, ...]:
        """On the run's clock: when the search ends, and when evaluations in flight are given up."""
        limit = self._session.settings.budget.seconds
        return () if limit is None else (limit, limit + max(_GRACE_SECONDS, _GRACE_SHARE * limit))

    def _hopeless(self) -> bool:
        """The time for evaluations in flight is up too. The first one is awaited all the same: without it the
        run has nothing to show."""
        deadlines = self._deadlines()
        return bool(deadlines and self._counts) and self._session.clock.seconds() >= deadlines[-1]

    def _may_ask(self) -> bool:
        if self._told <= self._next - self._session.settings.window:
            return False
        limit = self._session.settings.budget.candidates
        return limit is None or self._distinct + self._next - self._settled < limit

    def _ask(self) -> None:
        sequence = self._next
        order = self._steering.ask(sequence)
        self._steering.asked(sequence, order.operator, order.parents)
        slot = Slot(sequence, order)
        if sequence == self._settled:
            slot.turn.set()
        self._slots[sequence] = slot
        self._next += 1
        slot.task = asyncio.create_task(self._guard(self._live(slot)))

    # -- one proposal ----------------------------------------------------------------------------------

    async def _guard(self, life: Coroutine[Any, Any, None]) -> None:
        try:
            await life
        except Exception as error:
            self._fault = self._fault or error
        finally:
            self._wake()

    async def _live(self, slot: Slot) -> None:
        if slot.order.operator == "given" and slot.sequence < len(self._session.spec.seeds):
            await slot.turn.wait()
            candidate = self._session.spec.seeds[slot.sequence]
            first = self._session.store.first_sequence(candidate.id)
            draft = Draft(candidate, first, source_key=source_key(candidate))
        else:
            draft = await self._proposer.draw(slot.sequence, slot.order, slot.turn.wait)
        self._settle(slot, draft)
        if slot.candidate is None:
            slot.closed.set()
        else:
            await self._finish(slot)

    def _settle(self, slot: Slot, draft: Draft) -> None:
        """Write the proposal down and let the next one have its turn."""
        draft = self._record(slot, draft)
        session, candidate = self._session, draft.candidate
        slot.candidate, slot.duplicate_of, slot.settled = candidate, draft.duplicate_of, True
        self._settled += 1
        self._count(candidate is None, draft.duplicate_of is not None, slot.order.operator)
        settings = session.settings
        if self._empties < settings.empties and self._repeats < settings.duplicates:
            following = self._slots.get(self._settled)
            if following is not None:
                following.turn.set()
        now = session.clock.seconds()
        if candidate is None:
            session.emit(ProposalFailed(slot.sequence, slot.order.operator, draft.fault, now))
        else:
            session.emit(
                Proposed(
                    sequence=slot.sequence,
                    operator=slot.order.operator,
                    parents=slot.order.parents,
                    candidate_id=candidate.id,
                    generator=_source(slot, candidate, session),
                    duplicate_of=slot.duplicate_of,
                    seconds=now,
                )
            )
        self._wake()

    def _record(self, slot: Slot, draft: Draft) -> Draft:
        session = self._session
        usage = self._meter()
        tokens, money = usage.tokens - self._usage.tokens, usage.money - self._usage.money

        def write(draft: Draft) -> None:
            candidate = draft.candidate
            row = ProposalRow(
                sequence=slot.sequence,
                operator=slot.order.operator,
                parents=slot.order.parents,
                candidate_id=None if candidate is None else candidate.id,
                generator=session.generator.name if candidate is None else _source(slot, candidate, session),
                attempts=draft.attempts,
                duplicate_of=draft.duplicate_of,
                fault=draft.fault,
                tokens=tokens,
                money=money,
                at_seconds=session.clock.seconds(),
                lane=slot.order.lane,
            )
            session.store.record_proposal(row, candidate, source_key=draft.source_key)

        try:
            write(draft)
        except (TypeError, ValueError) as error:  # text or genome that no JSON can hold
            draft = Draft(attempts=draft.attempts, fault=f"a candidate that cannot be stored: {error}")
            write(draft)
        self._usage = usage
        self._tokens += tokens
        self._money += money
        return draft

    def _count(self, empty: bool, duplicate: bool, operator: str) -> None:
        self._empties = self._empties + 1 if empty else 0
        if duplicate and operator != "given":
            self._repeats += 1
        elif not empty and not duplicate:
            self._repeats = 0
        self._distinct += not empty and not duplicate

    async def _finish(self, slot: Slot) -> None:
        """Evaluate a settled candidate, or wait for the evaluation of the content it repeats."""
        session, candidate = self._session, slot.candidate
        assert candidate is not None
        original = slot.duplicate_of
        if original is None:
            stages = session.settings.search_stages
            evaluation = await session.evaluate(candidate, stages, _PHASE, slot.sequence)
            session.store.record_evaluation(
                _PHASE, slot.sequence, evaluation, at_seconds=session.clock.seconds()
            )
            self._counts[evaluation.verdict.kind.value] += 1
        else:
            evaluation = await self._awaited(original)
            session.store.record_reuse(
                _PHASE, slot.sequence, evaluation, reused_from=original, at_seconds=session.clock.seconds()
            )
        slot.evaluation = evaluation
        slot.closed.set()
        self._announce(slot, evaluation)

    async def _awaited(self, original: int) -> Evaluation:
        slot = self._slots.get(original)
        if slot is not None:
            await slot.closed.wait()
        evaluation = slot.evaluation if slot is not None else None
        evaluation = evaluation or self._session.store.evaluation(_PHASE, original)
        if evaluation is None:
            raise damaged("a repeated candidate has no evaluation", str(self._session.store.path), original)
        return evaluation

    def _announce(self, slot: Slot, evaluation: Evaluation) -> None:
        session, now = self._session, self._session.clock.seconds()
        verdict, score = evaluation.verdict, evaluation.score if evaluation.accepted else None
        session.emit(
            Evaluated(
                phase=_PHASE,
                sequence=slot.sequence,
                candidate_id=evaluation.candidate_id,
                verdict=verdict.kind,
                reason=verdict.reason,
                score=score,
                reused_from=slot.duplicate_of,
                seconds=now,
                counts=self._counts,
            )
        )
        if score is not None and (self._leader is None or score > self._leader):
            self._leader = score
            session.emit(NewBest(slot.sequence, evaluation.candidate_id, score, now))

    # -- waiting and ending ----------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _pause(self) -> None:
        """Until something happened, a budget runs out or it is time to poll for a stop."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        patience = [] if self._session.stop is None else [_POLL_SECONDS]
        ahead = [at - self._session.clock.seconds() for at in self._deadlines()]
        patience += [max(0.001, seconds) for seconds in ahead if seconds > 0][:1]
        timer = loop.call_later(min(patience), self._wake) if patience else None
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    async def _drain(self, stopped: str) -> str:
        """Let what is paid for come in. Where the clock or the generator ended the search, proposals not yet
        settled are dropped; where the evaluations did, they belong to the trajectory and are awaited, until
        the clock says otherwise."""
        if stopped in {"seconds", "tokens", "money", "exhausted"} and not self._proposer.capped:
            await self._drop_unsettled()
        while stopped not in {"cancelled", "fault"} and any(
            not slot.closed.is_set() for slot in self._slots.values()
        ):
            await self._pause()
            if self._fault is not None:
                return "fault"
            if self._session.stopping():
                return "cancelled"
            if self._overtime():
                await self._drop_unsettled()
            if self._hopeless():
                break  # `run` gives up what is left
        return stopped

    async def _drop_unsettled(self) -> None:
        tail = [slot for slot in self._slots.values() if not slot.settled]
        for slot in tail:
            del self._slots[slot.sequence]
        await self._abandon(tail)

    async def _abandon(self, slots: list[Slot]) -> None:
        tasks = [slot.task for slot in slots if slot.task is not None and not slot.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEANUP_SECONDS)


def _source(slot: Slot, candidate: Candidate, session: Session) -> str:
    named = slot.order.operator == "given" or isinstance(session.generator, Composite)
    return candidate.origin.generator if named else session.generator.name
