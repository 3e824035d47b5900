"""A generator and an evaluator without hardware: deterministic in the proposal and in the candidate's id."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from kevolve_core.evolve import Budget, SearchSettings
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import (
    Candidate,
    Device,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Ratio,
    Target,
    Verdict,
    VerdictKind,
)

SPEC = KernelSpec(
    name="toy",
    reference=Reference("def f(x): return x", "f"),
    cases=(Case("a", (InputSpec("x", (4,)),)),),
)
DEVICE = Device("fake:0", "fake", "Fake", Target("fake", "none"))
SEARCH, RACE, CONFIRM = ("rules", "quick"), ("race",), ("confirm", "holdout", "profile")
GENES, CHOICES = 5, 4


def settings(**changes: object) -> SearchSettings:
    values: dict[str, object] = {
        "seed": 7,
        "window": 4,
        "budget": Budget(candidates=40),
        "search_stages": SEARCH,
        "race_stages": RACE,
        "confirm_stages": CONFIRM,
    }
    return SearchSettings(**{**values, **changes})  # type: ignore[arg-type]


def candidate(point: Sequence[int], operator: str = "draft", parents: tuple[str, ...] = ()) -> Candidate:
    return Candidate(
        files={"k.py": f"POINT = {list(point)}\n"},
        entry="k.py",
        language="fake",
        parents=parents,
        genome={"point": list(point), "algorithm": "ab"[point[0] % 2]},
        origin=Origin("fake", operator),
    )


class FakeGenerator:
    """Draws, mutates and crosses points; every ``fails``-th proposal raises."""

    name = "fake"

    def __init__(self, *, fails: int = 0, sleep: float = 0.0) -> None:
        self.calls: list[Proposal] = []
        self._fails = fails
        self._sleep = sleep

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        del n
        self.calls.append(context)
        if self._sleep:
            await asyncio.sleep(random.random() * self._sleep)
        if self._fails and context.sequence % self._fails == self._fails - 1:
            raise RuntimeError("the generator tripped")
        parents = tuple(parent.id for parent in context.parents)
        rng = random.Random(f"{context.seed}:{context.sequence}:{context.attempt}:{parents}")
        if context.operator == "draft" or not context.parents:
            point = [rng.randrange(CHOICES) for _ in range(GENES)]
        else:
            points = [list(parent.genome["point"]) for parent in context.parents if parent.genome]
            point = [rng.choice(genes) for genes in zip(*points, strict=True)]
            point[rng.randrange(GENES)] = rng.randrange(CHOICES)
        return [candidate(point, context.operator, parents)]


def judge(candidate_id: str, stages: tuple[str, ...], score: float | None = None) -> Evaluation:
    """What is recorded for a candidate: by its id and the stages alone."""
    rng = random.Random(f"{candidate_id}:{stages}")
    value = rng.uniform(0.5, 2.0) if score is None else score
    draw = random.Random(candidate_id).random()
    if score is None and draw < 0.2:
        kind = VerdictKind.COMPILE_ERROR if draw < 0.1 else VerdictKind.WRONG_RESULT
        return Evaluation(candidate_id, Verdict(kind, "recorded", stages[0]))
    measurement = Measurement(
        case="a",
        device="fake:0",
        evidence=Evidence.SIMULATED,
        phase=stages[-1],
        candidate=(1.0, 1.0),
        baselines={"eager": (value, value)},
        ratios={"eager": Ratio(value, value * 0.95, value * 1.05, 2)},
        best_baseline="eager",
        floor_seconds=0.5,
    )
    return Evaluation(
        candidate_id,
        Verdict(VerdictKind.ACCEPTED),
        measurements=(measurement,),
        score=value,
        evidence=Evidence.SIMULATED,
    )


class FakeExecutor:
    """Answers from `judge` (or ``answer``) after a random nap, on threads; keeps the requests it was paid."""

    def __init__(
        self,
        *,
        sleep: float = 0.002,
        threads: int = 4,
        answer: Callable[[EvaluationRequest], Evaluation] | None = None,
    ) -> None:
        self.requests: list[EvaluationRequest] = []
        self._sleep = sleep
        self._answer = answer or (lambda request: judge(request.candidate.id, request.stages))
        self._pool = ThreadPoolExecutor(threads)

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        self.requests.append(request)
        return self._pool.submit(self._work, request)

    def _work(self, request: EvaluationRequest) -> Evaluation:
        time.sleep(random.random() * self._sleep)
        return self._answer(request)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
