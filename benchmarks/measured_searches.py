"""Searches on measured spaces, by the loop of a real run, and how uses of memory compare: shared by
search_ablation_cpu.py and its tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from measured_space import Book, Kernels
from recorded import interval
from search_ablation import MODES, policy_of, row_of

from kevolve_core.api.parts import open_executor
from kevolve_core.evaluate import SEARCH_STAGES
from kevolve_core.evolve import Budget, Memory, SearchSettings, run
from kevolve_core.evolve.points import PointGenerator
from kevolve_core.interfaces import EvaluationRequest, Executor
from kevolve_core.knowledge.experience import Lanes
from kevolve_core.model import Evaluation
from kevolve_core.space import Point
from kevolve_core.store import RunStore

GENOMES = 3


@define
class Answering:
    """An executor that gives what is known, and has the rest measured by ``measuring``; without one,
    everything is known."""

    spec: str
    book: Book
    by: str = "space"
    measuring: Executor | None = None

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        answer: Future[Evaluation] = Future()
        known = self.book.of(self.spec, self.by)
        if request.candidate.id not in known and self.measuring is not None:
            self.book.add(self.spec, self.by, self.measuring.submit(request).result())
        answer.set_result(known[request.candidate.id])
        return answer

    def close(self) -> None:
        """Nothing is its own."""


@frozen
class Found:
    """The best score after each paid evaluation, the kernel that had it last, and the best points."""

    curve: tuple[float, ...]
    best: str
    points: tuple[Point, ...]


def searched(
    kernels: Kernels, executor: Executor, policy: str, seed: int, evaluations: int, memory: Memory | None
) -> Found:
    """A search by the loop of a real run, and nothing after it. One that finds nothing new any more is over
    and keeps its best."""
    settings = SearchSettings(
        seed=seed, budget=Budget(candidates=evaluations, stall=None), search_stages=SEARCH_STAGES
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        RunStore.create(Path(folder, "run"), spec=kernels.spec, settings={}) as store,
    ):
        work = run(
            store,
            device=kernels.where.device,
            generator=PointGenerator(kernels.space, kernels.render),
            policy=policy_of(policy),
            executor=executor,
            settings=settings,
            memory=memory,
        )
        result = asyncio.run(work)
        if result.error is not None:
            raise result.error
        paid = [s.evaluation for s in store.steps() if s.evaluation and s.evaluation.reused_from is None]
        scores = [e.score or 0.0 for e in paid][:evaluations]
        curve = list(itertools.accumulate(scores, max))
        top = store.top(GENOMES)
        genomes = [store.candidate(row.candidate_id).genome for row in top]
    curve += [curve[-1]] * (evaluations - len(curve))
    return Found(tuple(curve), top[0].candidate_id if top else "", tuple(g for g in genomes if g is not None))


def memory_of(mode: str, known: Sequence[Point]) -> Memory:
    return Memory(mode, Lanes() if mode == "split" else None, tuple(known) if mode != "off" else ())


@define
class Sweep:
    """The searches on one space, with experience from another."""

    kernels: Kernels
    related: Kernels
    book: Book
    seeds: int
    evaluations: int
    practice: dict[int, tuple[Point, ...]] = field(factory=dict)

    def known(self, seed: int) -> tuple[Point, ...]:
        """Experience."""
        if seed not in self.practice:
            answering = Answering(self.related.spec.name, self.book)
            done = searched(self.related, answering, "random", seed, self.evaluations, None)
            self.practice[seed] = done.points
        return self.practice[seed]

    @property
    def best(self) -> float:
        return max(e.score or 0.0 for e in self.book.of(self.kernels.spec.name, "space").values())

    def replayed(self, policy: str, mode: str, seed: int) -> Found:
        memory = memory_of(mode, self.known(seed))
        answering = Answering(self.kernels.spec.name, self.book)
        return searched(self.kernels, answering, policy, seed, self.evaluations, memory)

    def rows(self, policies: Sequence[str]) -> list[dict[str, Any]]:
        """A row a policy and mode."""
        rows = []
        for policy in policies:
            for mode in MODES:
                curves = [self._curve(policy, mode, seed) for seed in range(self.seeds)]
                found = row_of(policy, mode, [curves], [self.kernels.spec.name])
                rows.append({**found, "by_seed": [curve[-1] for curve in curves], "evidence": "measured"})
        return rows

    def _curve(self, policy: str, mode: str, seed: int) -> list[float]:
        key = (self.kernels.spec.name, policy, mode, seed, self.evaluations)
        if key not in self.book.curves:
            self.book.check_time()
            self.book.done(key, self.replayed(policy, mode, seed).curve)
        return [score / self.best for score in self.book.curves[key]]

    def live(self, policies: Sequence[str], modes: Sequence[str], seeds: int) -> list[dict[str, Any]]:
        """A row a search that has every kernel measured anew, beside the same search on the recorded
        measurements."""
        name, where = self.kernels.spec.name, self.kernels.where
        jobs = list(itertools.product(policies, modes, range(seeds)))
        # Begun only where there is something to measure: its baselines take most of a minute.
        executor: Executor | None = None
        rows = []
        try:
            for policy, mode, seed in jobs:
                by = f"live {policy} {mode} {seed}"
                if len(self.book.of(name, by)) < self.evaluations:
                    self.book.check_time()
                    executor = executor or open_executor("local", where, self.kernels.spec, seed=0)
                answering = Answering(name, self.book, by, executor)
                memory = memory_of(mode, self.known(seed))
                done = searched(self.kernels, answering, policy, seed, self.evaluations, memory)
                rows.append(self._beside(done, policy, mode, seed))
                print(json.dumps(rows[-1]), flush=True)
        finally:
            if executor is not None:
                executor.close()
        return rows

    def _beside(self, done: Found, policy: str, mode: str, seed: int) -> dict[str, Any]:
        name = self.kernels.spec.name
        table, made = self.book.of(name, "space"), self.book.of(name, f"live {policy} {mode} {seed}")
        both = [
            (e.score, recorded)
            for key, e in made.items()
            if e.score is not None and (recorded := table[key].score) is not None
        ]
        recorded = (table[done.best].score or 0.0) if done.best else 0.0
        return {
            "space": name,
            "policy": policy,
            "memory": mode,
            "seed": seed,
            "live_score": done.curve[-1],
            "recorded_score_of_its_kernel": recorded,
            "of_the_best": recorded / self.best,
            "of_the_best_when_replayed": self.replayed(policy, mode, seed).curve[-1] / self.best,
            "kernels": len(made),
            "scored_in_both": len(both),
            "rank_correlation": correlation(both),
            "median_live_over_recorded": statistics.median(a / b for a, b in both) if both else None,
            "verdicts_that_differ": sum(e.verdict.kind != table[key].verdict.kind for key, e in made.items()),
            "evidence": "measured",
        }


def difference(finals: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Split less the better of off and warm, paired by seed, with its interval. Which of the two is better
    is decided for every seed by the others: the higher of two means over the same seeds is too high."""
    seeds = range(len(finals["split"]))
    each = []
    for seed in seeds:
        others = [n for n in seeds if n != seed] or seeds
        better = max(("off", "warm"), key=lambda mode: statistics.fmean(finals[mode][n] for n in others))
        each.append(finals["split"][seed] - finals[better][seed])
    low, high = interval(each)
    better = max(("off", "warm"), key=lambda mode: statistics.fmean(finals[mode]))
    return {"better": better, "difference": statistics.fmean(each), "low": low, "high": high}


def judgement(of: Mapping[str, Any]) -> str:
    """What a `difference` says."""
    if of["difference"] >= 0:
        return "no worse"
    return "no worse, within the interval" if of["high"] >= 0 else "worse"


def pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`difference` of the mean over policies and spaces."""
    finals = {
        mode: [
            statistics.fmean(same)
            for same in zip(*(row["by_seed"] for row in rows if row["memory"] == mode), strict=True)
        ]
        for mode in MODES
    }
    return difference(finals)


def repeated(book: Book, spec: str) -> dict[str, Any]:
    """How far the score of a kernel repeats: live over recorded, of all that were measured again."""
    table = book.of(spec, "space")
    again = [made for (name, by), made in book.known.items() if name == spec and by != "space"]
    both = [
        (e.score, recorded)
        for made in again
        for key, e in made.items()
        if e.score is not None and (recorded := table[key].score) is not None
    ]
    ratios = sorted(a / b for a, b in both)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else None
    return {"pairs": len(both), "quartiles": quartiles, "rank_correlation": correlation(both)}


def correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rank correlation; None of fewer than three."""
    if len(pairs) < 3:
        return None
    sides = [[pair[n] for pair in pairs] for n in (0, 1)]
    ranks = [[sorted(side).index(value) for value in side] for side in sides]
    return statistics.correlation(*ranks)
