"""A sitting from end to end: finalists, stops, faults, events, resuming."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import attrs
import pytest
from evolve_fakes import CONFIRM, RACE, SEARCH, SPEC, FakeExecutor, FakeGenerator, judge, settings

from kevolve_core.errors import ConfigError, StoreError, ToolchainMissingError, WorkerError
from kevolve_core.evolve import (
    NOTHING_BETTER,
    Budget,
    Evaluated,
    Event,
    NewBest,
    PhaseChanged,
    ProposalFailed,
    Proposed,
    RunFinished,
    RunStarted,
    collect,
    make_policy,
    run,
)
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.model import Evaluation, Ratio, Verdict, VerdictKind
from kevolve_core.store import RunStore


def by_phase(**scores: Callable[[str], float]) -> FakeExecutor:
    """Scores by phase, each a function of the candidate's id."""
    names = {SEARCH: "search", RACE: "race", CONFIRM: "confirm"}
    return FakeExecutor(
        answer=lambda r: judge(r.candidate.id, r.stages, scores[names[r.stages]](r.candidate.id))
    )


def spread(candidate_id: str) -> float:
    return 1.1 + int(candidate_id[:6], 16) / 16**6


# -- finalists -----------------------------------------------------------------------------------------


def test_the_winner_of_the_race_is_confirmed_and_returned(bench: Any) -> None:
    executor = by_phase(search=spread, race=lambda i: 4 - spread(i), confirm=lambda _: 1.7)
    result = bench.run(executor=executor, settings=settings(finalists=3))
    top = sorted({p.candidate_id: p.score for p in result.trajectory}.items(), key=lambda item: -item[1])[:3]
    assert [r.candidate.id for r in executor.requests if r.stages == CONFIRM] == [top[-1][0]]
    assert result.best is not None
    assert (result.best.id, result.score, result.confirmed) == (top[-1][0], 1.7, True)
    assert {r.candidate.id for r in executor.requests if r.stages == RACE} == {name for name, _ in top}


def test_when_the_winner_fails_its_confirmation_the_next_finalist_follows(bench: Any) -> None:
    confirmed: list[str] = []

    def answer(request: EvaluationRequest) -> Evaluation:
        identity = request.candidate.id
        if request.stages != CONFIRM:
            return judge(identity, request.stages, spread(identity))
        confirmed.append(identity)
        if len(confirmed) == 1:
            return Evaluation(identity, Verdict(VerdictKind.WRONG_RESULT, "holdout", "holdout"))
        return judge(identity, request.stages, 0.9 if len(confirmed) == 2 else 1.4)

    result = bench.run(executor=FakeExecutor(answer=answer))
    assert result.best is not None
    assert (result.best.id, len(confirmed)) == (confirmed[2], 3)


@pytest.mark.parametrize("phase", ["search", "race", "confirm"])
def test_when_nothing_beats_the_baseline_there_is_no_best(bench: Any, phase: str) -> None:
    scores: dict[str, Any] = {"search": spread, "race": spread, "confirm": spread, phase: lambda _: 1.0}
    if phase == "search":
        scores["race"] = scores["confirm"] = lambda _: 0.99
    result = bench.run(executor=by_phase(**scores))
    assert (result.best, result.evaluation, result.reason) == (None, None, NOTHING_BETTER)
    assert (result.confirmed, result.resumable) == (False, False)


def test_a_gain_within_its_interval_does_not_count(bench: Any) -> None:
    # The fakes' interval is 5 % to each side.
    assert bench.run(executor=by_phase(search=spread, race=spread, confirm=lambda _: 1.04)).best is None
    sure = bench.run(name="sure", executor=by_phase(search=spread, race=spread, confirm=lambda _: 1.06))
    assert sure.best is not None


def test_intervals_of_several_cases_are_averaged_as_the_score_is(bench: Any) -> None:
    spec = attrs.evolve(SPEC, cases=(SPEC.cases[0], attrs.evolve(SPEC.cases[0], name="b", weight=3.0)))
    lows = {"a": 0.9, "b": 1.05}

    def answer(request: EvaluationRequest) -> Evaluation:
        one = judge(request.candidate.id, request.stages, spread(request.candidate.id))
        measurements = [
            attrs.evolve(one.measurements[0], case=name, ratios={"eager": Ratio(1.1, low, 1.2, 2)})
            for name, low in lows.items()
        ]
        return attrs.evolve(one, measurements=tuple(measurements))

    assert bench.run(spec=spec, executor=FakeExecutor(answer=answer)).best is not None
    lows["b"] = 1.02
    assert bench.run(name="low", spec=spec, executor=FakeExecutor(answer=answer)).best is None


def test_phases_without_stages_are_left_out(bench: Any) -> None:
    result = bench.run(executor=by_phase(search=spread), settings=settings(race_stages=(), confirm_stages=()))
    assert result.best is not None
    assert result.score == max(p.score for p in result.trajectory if p.score is not None)


def test_a_run_in_which_nothing_is_accepted_finishes(bench: Any) -> None:
    executor = FakeExecutor(answer=lambda r: Evaluation(r.candidate.id, Verdict(VerdictKind.CRASH)))
    result = bench.run(executor=executor)
    assert (result.best, result.reason, dict(result.counts)) == (None, NOTHING_BETTER, {"crash": 40})


# -- stops ---------------------------------------------------------------------------------------------


def stop_after(count: int) -> tuple[Callable[[Event], None], Callable[[], bool]]:
    seen: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, Evaluated):
            seen.append(event)

    return watch, lambda: len(seen) >= count


@pytest.mark.parametrize("count", [1, 15, 39, 41, 44])
def test_a_stopped_run_keeps_its_best_and_resumes_to_the_undisturbed_end(bench: Any, count: int) -> None:
    expected = bench.run(name="undisturbed", generator=FakeGenerator(fails=9))
    watch, stop = stop_after(count)
    stopped = bench.run(generator=FakeGenerator(fails=9), on_event=watch, stop=stop)
    assert stopped.resumable
    assert not stopped.confirmed
    if count > 1:
        assert stopped.best is not None
    assert bench.look(lambda store: store.info().status) == "interrupted"
    result = bench.resume(generator=FakeGenerator(fails=9))
    assert result.trajectory == expected.trajectory
    assert (result.best, result.counts, result.resumable) == (expected.best, expected.counts, False)


def test_a_cancelled_task_leaves_a_resumable_run_with_its_best(bench: Any) -> None:
    expected = bench.run(name="undisturbed")

    async def cancelled() -> None:
        with RunStore.create(bench.path / "run", spec=SPEC, settings={}) as store:
            enough = asyncio.Event()
            count, reached = stop_after(12)

            def watch(event: Event) -> None:
                count(event)
                if reached():
                    enough.set()

            task = asyncio.create_task(
                run(
                    store,
                    settings=settings(),
                    **bench.parts(),
                    on_event=watch,
                )
            )
            await enough.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert collect(store).best is not None
            assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []

    asyncio.run(cancelled())
    assert bench.resume().trajectory == expected.trajectory


def test_time_counts_over_all_sittings(bench: Any) -> None:
    watch, stop = stop_after(5)
    first = bench.run(on_event=watch, stop=stop, settings=settings(budget=Budget(seconds=0.6)))
    second = bench.resume()
    assert 0 < first.seconds < second.seconds
    assert second.stopped == "seconds"
    assert second.trajectory[-1].seconds >= 0.5


def test_a_finished_run_resumes_to_the_same_result(bench: Any) -> None:
    result = bench.run()
    requests = len(bench.executor.requests)
    assert bench.resume() == result
    assert len(bench.executor.requests) == requests


def test_a_larger_budget_takes_an_unfinished_search_further(bench: Any) -> None:
    watch, stop = stop_after(5)
    bench.run(on_event=watch, stop=stop)
    assert bench.resume(budget=Budget(candidates=60)).evaluations == 60


def test_resuming_with_another_policy_is_refused(bench: Any) -> None:
    watch, stop = stop_after(5)
    bench.run(on_event=watch, stop=stop)
    with pytest.raises(ConfigError, match="another policy"):
        bench.resume(policy=make_policy("evolutionary"))


def test_several_runs_go_on_at_once_in_one_process(bench: Any) -> None:
    async def both() -> list[Any]:
        names = ("one", "two", "three")
        stores = [RunStore.create(bench.path / name, spec=SPEC, settings={}) for name in names]
        results = await asyncio.gather(
            *(run(store, settings=settings(), **bench.parts()) for store in stores)
        )
        for store in stores:
            store.close()
        return results

    first, second, third = asyncio.run(both())
    assert first.trajectory == second.trajectory == third.trajectory


# -- faults --------------------------------------------------------------------------------------------


class Faulty(FakeExecutor):
    """Raises ``error`` at the ``after``-th request: in the future, or already in submit."""

    def __init__(self, error: Exception, after: int, *, in_submit: bool = False) -> None:
        super().__init__()
        self._error, self._after, self._in_submit = error, after, in_submit

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        if len(self.requests) < self._after:
            return super().submit(request)
        if self._in_submit:
            raise self._error
        future: Future[Evaluation] = Future()
        future.set_running_or_notify_cancel()
        threading.Timer(0.005, future.set_exception, [self._error]).start()
        return future


@pytest.mark.parametrize("in_submit", [False, True])
@pytest.mark.parametrize("after", [0, 13, 41, 44])
def test_a_fault_of_the_installation_ends_the_run_and_keeps_everything(
    bench: Any, after: int, in_submit: bool
) -> None:
    expected = bench.run(name="undisturbed")
    executor = Faulty(ToolchainMissingError("no compiler", mend="install g++"), after, in_submit=in_submit)
    result = bench.run(executor=executor)
    assert isinstance(result.error, ToolchainMissingError)
    assert (result.stopped, result.reason, result.resumable) == ("fault", "no compiler", True)
    assert bench.look(lambda store: store.info().status) == "failed"
    assert bench.resume().trajectory == expected.trajectory


def test_an_executor_that_breaks_its_word_is_a_fault_with_its_cause(bench: Any) -> None:
    result = bench.run(executor=Faulty(ZeroDivisionError("bug"), 5))
    assert isinstance(result.error, WorkerError)
    assert isinstance(result.error.__cause__, ZeroDivisionError)


def test_an_answer_for_another_candidate_is_a_fault(bench: Any) -> None:
    executor = FakeExecutor(answer=lambda r: judge("somebody", r.stages, 1.5))
    result = bench.run(executor=executor)
    assert isinstance(result.error, WorkerError)
    assert "another candidate" in result.error.what


def test_an_executor_that_cancels_its_futures_is_a_fault_and_no_hang(bench: Any) -> None:
    class Closing(FakeExecutor):
        def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
            if len(self.requests) < 6:
                return super().submit(request)
            future: Future[Evaluation] = Future()
            threading.Timer(0.005, future.cancel).start()
            return future

    result = bench.run(executor=Closing())
    assert isinstance(result.error, WorkerError)


def test_a_full_disk_ends_the_run_cleanly_and_it_resumes(bench: Any) -> None:
    expected = bench.run(name="undisturbed")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    reached, full = stop_after(10)

    def watch(event: Event) -> None:
        reached(event)
        if full():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        result = bench.run(on_event=watch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(result.error, StoreError)
    assert "free space" in str(result.error)
    assert result.evaluations >= 10
    assert bench.resume().trajectory == expected.trajectory


# -- events --------------------------------------------------------------------------------------------


def test_events_tell_the_whole_run_in_order(bench: Any) -> None:
    events: list[Event] = []
    result = bench.run(on_event=events.append, generator=FakeGenerator(fails=9))
    assert isinstance(events[0], RunStarted)
    assert events[-1] == RunFinished(result)
    phases = [event.phase for event in events if isinstance(event, PhaseChanged)]
    assert phases == ["race", "confirm", "done"]
    settled = [e.sequence for e in events if isinstance(e, Proposed | ProposalFailed)]
    assert settled == [p.sequence for p in result.trajectory]
    searched = [e for e in events if isinstance(e, Evaluated) and e.phase == "search"]
    assert sorted(e.sequence for e in searched) == [p.sequence for p in result.trajectory if p.candidate_id]
    assert dict(searched[-1].counts) == dict(result.counts)
    scores = [e.score for e in events if isinstance(e, NewBest)]
    assert scores == sorted(set(scores))
    assert scores[-1] == max(p.score for p in result.trajectory if p.score is not None)


def test_what_a_subscriber_raises_is_contained(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError(f"cannot draw {type(event).__name__}")

    assert bench.run(on_event=broken).trajectory == bench.run(name="quiet").trajectory
    assert "cannot draw" in caplog.text


def test_the_store_keeps_the_sittings_and_phases(bench: Any) -> None:
    watch, stop = stop_after(5)
    bench.run(on_event=watch, stop=stop)
    bench.resume()
    kinds = [(e.kind, e.data.get("resumed"), e.data.get("phase")) for e in bench.look(RunStore.events)]
    assert kinds == [
        ("sitting", False, None),
        ("interrupted", None, None),
        ("sitting", True, None),
        ("phase", None, "race"),
        ("phase", None, "confirm"),
        ("phase", None, "done"),
    ]


def test_the_best_is_dated(bench: Any) -> None:
    result = bench.run()
    assert result.best is not None
    assert result.best_at is not None
    first = next(p for p in result.trajectory if p.candidate_id == result.best.id)
    assert (result.best_at.sequence, result.best_at.seconds) == (first.sequence, first.seconds)
    assert 1 <= result.best_at.evaluations <= result.evaluations
