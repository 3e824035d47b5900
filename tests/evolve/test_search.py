"""The search: order, duplicates, faults of generators, seeds and budgets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from evolve_fakes import CONFIRM, RACE, SEARCH, SPEC, FakeExecutor, FakeGenerator, candidate, judge, settings

from kevolve_core.errors import ConfigError, StoreError
from kevolve_core.evolve import Budget, SearchSettings, Usage, make_policy
from kevolve_core.evolve.policies import GreedyPolicy
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.model import Candidate, Evaluation, VerdictKind


class Scripted:
    """Gives what ``script`` maps a proposal to: candidates, nothing, or an exception to raise."""

    name = "scripted"

    def __init__(self, script: Any) -> None:
        self._script = script

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        del n
        answer = self._script(context)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


class Spy(GreedyPolicy):
    """Notes what it is told and asked, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, int]] = []

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        self.log.append(("ask", sequence))
        return super().ask(sequence, seed)

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        self.log.append(("tell", sequence))
        super().tell(sequence, candidate, evaluation)


@pytest.mark.parametrize("window", [1, 3, 8])
def test_before_an_ask_exactly_the_tells_a_window_back_have_happened(bench: Any, window: int) -> None:
    spy = Spy()
    bench.run(settings=settings(window=window, budget=Budget(candidates=25)), policy=spy)
    expected = []
    for sequence in range(25):
        if sequence >= window:
            expected.append(("tell", sequence - window))
        expected.append(("ask", sequence))
    assert spy.log[: len(expected)] == expected


@pytest.mark.parametrize("policy", ["greedy", "evolutionary", "random"])
def test_the_trajectory_does_not_depend_on_timing(bench: Any, policy: str) -> None:
    slow = bench.run(name="slow", policy=make_policy(policy), generator=FakeGenerator(fails=7, sleep=0.004))
    executor = FakeExecutor(sleep=0.0, threads=1)
    fast = bench.run(
        name="fast", policy=make_policy(policy), generator=FakeGenerator(fails=7), executor=executor
    )
    assert fast.trajectory == slow.trajectory
    assert (fast.best, fast.counts) == (slow.best, slow.counts)


def test_proposing_goes_on_while_an_evaluation_runs(bench: Any) -> None:
    third_proposed = threading.Event()

    def script(context: Proposal) -> list[Candidate]:
        if context.sequence == 2:
            third_proposed.set()
        return [candidate([context.sequence])]

    def answer(request: EvaluationRequest) -> Evaluation:
        assert third_proposed.wait(10)
        return judge(request.candidate.id, request.stages)

    executor = FakeExecutor(answer=answer)
    result = bench.run(
        generator=Scripted(script), executor=executor, settings=settings(budget=Budget(candidates=6))
    )
    assert result.evaluations == 6


def test_slow_proposals_are_drawn_side_by_side(bench: Any) -> None:
    at_once: list[int] = []
    open_calls = 0

    class Slow(FakeGenerator):
        async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
            nonlocal open_calls
            open_calls += 1
            at_once.append(open_calls)
            await asyncio.sleep(0.01)
            open_calls -= 1
            return await super().propose(context, n)

    bench.run(generator=Slow(), settings=settings(window=4, budget=Budget(candidates=12)))
    assert max(at_once) == 4


def test_repeated_content_is_retried_then_recorded_and_not_paid_twice(bench: Any) -> None:
    attempts: list[tuple[int, int]] = []

    def script(context: Proposal) -> list[Candidate]:
        attempts.append((context.sequence, context.attempt))
        return [candidate([0] if context.sequence < 3 else [context.sequence])]

    result = bench.run(
        generator=Scripted(script), settings=settings(window=2, attempts=3, budget=Budget(candidates=3))
    )
    assert [(p.reused_from, p.score) for p in result.trajectory[1:3]] == [
        (0, result.trajectory[0].score),
        (0, result.trajectory[0].score),
    ]
    assert [a for s, a in attempts if s in (1, 2)] == [0, 1, 2, 0, 1, 2]
    paid = [r.candidate.id for r in bench.executor.requests if r.stages == SEARCH]
    assert len(paid) == len(set(paid)) == result.evaluations == 3
    assert result.duplicates == 2


def test_a_retry_that_finds_something_new_is_no_duplicate(bench: Any) -> None:
    def script(context: Proposal) -> list[Candidate]:
        return [candidate([context.sequence if context.attempt else 0])]

    result = bench.run(generator=Scripted(script), settings=settings(budget=Budget(candidates=5)))
    assert (result.duplicates, result.evaluations) == (0, 5)


def test_a_generator_that_only_repeats_itself_ends_the_search(bench: Any) -> None:
    result = bench.run(
        generator=Scripted(lambda _: [candidate([0])]), settings=settings(duplicates=5, budget=Budget())
    )
    assert (result.stopped, result.evaluations, len(result.trajectory)) == ("exhausted", 1, 6)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ([], "nothing to propose"),
        (ValueError("no idea left"), "ValueError: no idea left"),
        (["text"], "offered str instead of a Candidate"),
        (
            [attrs.evolve(candidate([9]), genome={"what": object()})],
            "a candidate that cannot be stored",
        ),
        ([Candidate({"k.py": "\ud800"}, "k.py", "fake")], "a candidate that cannot be stored"),
    ],
)
def test_what_a_generator_cannot_give_is_recorded_and_ends_the_search_when_it_goes_on(
    bench: Any, answer: Any, fault: str
) -> None:
    def script(context: Proposal) -> Any:
        return [candidate([context.sequence])] if context.sequence in (0, 3) else answer

    result = bench.run(generator=Scripted(script), settings=settings(empties=4, budget=Budget()))
    steps = bench.look(lambda store: list(store.steps()))
    assert result.stopped == "exhausted"
    assert [s.proposal.sequence for s in steps if s.proposal.candidate_id] == [0, 3]
    assert len(steps) == 8
    assert all(s.proposal.fault.startswith(fault) for s in steps if not s.proposal.candidate_id)


def test_a_search_that_ends_for_want_of_proposals_says_why(bench: Any) -> None:
    def script(context: Proposal) -> list[Candidate]:
        if context.sequence % 3 == 1:
            return []
        raise RuntimeError("the model is asleep\nfor long")

    result = bench.run(generator=Scripted(script), settings=settings(empties=5, budget=Budget()))
    words = "the last 5 proposals gave no candidate (RuntimeError: the model is asleep)"
    assert (result.stopped, result.reason) == ("exhausted", f"no kernel beat the baseline: {words}")


def test_the_users_kernels_go_first_and_may_become_parents(bench: Any) -> None:
    seeds = (candidate([1, 1, 1, 1, 1], "given"), candidate([2, 2, 2, 2, 2], "given"))
    executor = FakeExecutor(
        answer=lambda r: judge(r.candidate.id, r.stages, 1.9 if r.candidate.id == seeds[1].id else 1.1)
    )
    result = bench.run(spec=attrs.evolve(SPEC, seeds=seeds), executor=executor)
    assert [(p.operator, p.candidate_id) for p in result.trajectory[:2]] == [
        ("given", seeds[0].id),
        ("given", seeds[1].id),
    ]
    assert any(seeds[1].id in p.parents for p in result.trajectory[2:])
    contexts = [c for c in bench.generator.calls if seeds[1] in c.parents]
    assert contexts[0].evaluations[seeds[1].id].score == 1.9


def test_the_candidate_budget_counts_distinct_candidates(bench: Any) -> None:
    result = bench.run(generator=FakeGenerator(fails=3), settings=settings(budget=Budget(candidates=20)))
    assert (result.stopped, result.evaluations) == ("candidates", 20)
    assert len(result.trajectory) > 20


def test_the_time_budget_ends_the_search_and_drops_a_slow_proposal(bench: Any) -> None:
    start = time.monotonic()
    result = bench.run(
        generator=FakeGenerator(sleep=0.01),
        settings=settings(budget=Budget(seconds=0.3), race_stages=(), confirm_stages=()),
    )
    assert result.stopped == "seconds"
    assert 0.3 <= time.monotonic() - start < 5
    assert all(p.verdict is not None for p in result.trajectory)

    class Hanging(FakeGenerator):
        async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
            if context.sequence == 5:
                await asyncio.sleep(3600)
            return await super().propose(context, n)

    hung = bench.run(name="hung", generator=Hanging(), settings=settings(budget=Budget(seconds=0.3)))
    assert (hung.stopped, len(hung.trajectory)) == ("seconds", 5)


def test_a_stall_ends_the_search(bench: Any) -> None:
    executor = FakeExecutor(answer=lambda r: judge(r.candidate.id, r.stages, 1.5))
    result = bench.run(executor=executor, settings=settings(window=4, budget=Budget(stall=10)))
    assert result.stopped == "stall"
    # Told: the first and ten more; proposed on top: what the window had in flight.
    assert len(result.trajectory) == 11 + 3


def test_reaching_the_floor_ends_the_search(bench: Any) -> None:
    executor = FakeExecutor(answer=lambda r: judge(r.candidate.id, r.stages, 1.5))
    near = settings(budget=Budget(candidates=30, floor_headroom=1.0))  # the fakes run at twice the floor
    assert bench.run(executor=executor, settings=near).stopped == "headroom"
    far = settings(budget=Budget(candidates=30, floor_headroom=0.9))
    assert bench.run(name="far", executor=executor, settings=far).stopped == "candidates"


@pytest.mark.parametrize(
    ("budget", "stopped"), [(Budget(tokens=100), "tokens"), (Budget(money=0.5), "money")]
)
def test_tokens_and_money_end_the_search_and_are_kept(bench: Any, budget: Budget, stopped: str) -> None:
    class Paid(FakeGenerator):
        def usage(self) -> Usage:
            return Usage(10 * len(self.calls), 0.05 * len(self.calls))

    result = bench.run(generator=Paid(), settings=settings(window=1, budget=budget))
    assert result.stopped == stopped
    assert (result.tokens, round(result.money, 6), len(result.trajectory)) == (100, 0.5, 10)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="window"):
        settings(window=0)
    with pytest.raises(ConfigError, match="stage"):
        SearchSettings()


def test_a_run_is_begun_once(bench: Any) -> None:
    bench.run()
    from kevolve_core.evolve import run
    from kevolve_core.store import RunStore

    with RunStore.open(bench.path / "run") as store, pytest.raises(StoreError, match="begun already"):
        asyncio.run(run(store, settings=settings(), **bench.parts()))


def test_stages_of_each_phase_are_what_the_caller_named(bench: Any) -> None:
    bench.run()
    asked = {request.stages for request in bench.executor.requests}
    assert asked == {SEARCH, RACE, CONFIRM}


def test_input_seeds_differ_between_evaluations(bench: Any) -> None:
    bench.run()
    seeds = [request.seed for request in bench.executor.requests]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_verdict_is_counted(bench: Any) -> None:
    result = bench.run()
    kinds = [p.verdict for p in result.trajectory if p.verdict is not None and p.reused_from is None]
    assert dict(result.counts) == {kind.value: kinds.count(kind) for kind in set(kinds)}
    assert VerdictKind.WRONG_RESULT in kinds
