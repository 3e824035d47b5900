"""What each policy and each use of memory is worth on real kernels of a CPU, at equal budgets.

    python benchmarks/search_ablation_cpu.py --kept FILE [--minutes M] [--seeds 10] [--evaluations 16]
        [--json FILE]

1. A space of softmax and one of RMS normalisation are measured: schedules that `synth` has for the fused
   kernel, with fewer choices a tunable (`TRIED`). Every distinct kernel is built, checked and timed once, by
   the evaluator, as in a search.
2. Every policy, with memory off, warm and split, searches the first space with the loop of a real run, store
   included; an evaluation is the one that was measured. So all are compared on the same measurements and
   differ by what they propose. Memory is what a random search of as many evaluations found on the second
   space: its best three points, made legal here.
3. A few searches (`--live`) run with every kernel checked and timed anew, to see whether what the recorded
   measurements say holds for searches that measure for themselves.

The figure of 2 is the fraction of the space's best score (speed-up over the best baseline, in the quick
timing of a search) after the budget: mean over seeds, with a 95 % bootstrap interval;
`early` is the same after a quarter of the budget.

With ``--kept FILE`` evaluations and searches are written there as they are made; ``--minutes`` stops the
work, and the same command goes on with it on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen
from provenance import environment, shown_command
from recorded import interval
from search_ablation import MODES, policy_of, row_of, verdict

from kevolve_core.api.parts import Place, open_executor, place
from kevolve_core.evaluate import SEARCH_STAGES
from kevolve_core.evolve import POLICIES, Budget, Memory, SearchSettings, run
from kevolve_core.evolve.points import PointGenerator
from kevolve_core.interfaces import EvaluationRequest, Executor, Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.experience import Lanes
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.space import Parameter, Point, Space
from kevolve_core.spec import load_spec
from kevolve_core.store import RunStore
from kevolve_core.synth import SynthGenerator

HERE = Path(__file__).parent
#: Choices of the tunables that are searched; a default comes on top, and other tunables keep theirs. Chosen
#: before anything was measured, so that a space has about a hundred points, which take minutes to measure.
TRIED: Mapping[str, tuple[Any, ...]] = {
    "lanes": (4, 8, 16),
    "unroll": (1, 4),
    "parallel": ("outer", "none"),
    "fuse": (True, False),
    "keep": (False, True),
    "online": (0, 1024),
    "stream": (False, True),
}
_GENOMES = 3
_AHEAD = 4  # kernels being built while one is timed


class TimeUpError(Exception):
    """The time given is over."""


@define
class Kernels:
    """The points of a specification's space, and the kernel of each."""

    spec: KernelSpec
    where: Place
    generator: SynthGenerator
    space: Space
    step: str
    genome: Mapping[str, Any]
    _made: dict[tuple[Any, ...], Candidate] = field(factory=dict)

    @classmethod
    def of(cls, file: Path) -> Kernels:
        spec = load_spec(file)
        where = place(spec, "cpu")
        backend = where.backend
        generator = SynthGenerator(spec, backend.renderers(), backend.schedule_space, where.device)
        genome = generator.default().genome
        assert genome is not None
        ((step, _),) = genome["steps"].items()  # everything is fused to one kernel
        timed = spec.timed_cases[0].name
        program = next(p for p in generator.programs() if p.case == timed)
        whole = backend.schedule_space(program.steps[0], where.device, str(genome["language"]))
        return cls(spec, where, generator, narrowed(whole), step, genome)

    def points(self) -> Iterator[Point]:
        """Every legal point."""
        names = [p.name for p in self.space.parameters]
        for values in itertools.product(*(p.choices for p in self.space.parameters)):
            point = dict(zip(names, values, strict=True))
            if self.space.violated(point) is None:
                yield point

    def render(self, point: Point) -> Candidate:
        key = tuple(point[p.name] for p in self.space.parameters)
        if key not in self._made:
            genome = {**self.genome, "steps": {self.step: dict(point)}}
            context = Proposal(self.spec, self.where.device, 0, 0, experience=(genome,))
            (made,) = self.generator.propose_now(context, 1)
            assert made.genome is not None
            assert dict(made.genome["steps"][self.step]) == dict(point)
            self._made[key] = attrs.evolve(made, genome=dict(point))
        return self._made[key]


def narrowed(space: Space) -> Space:
    """``space`` with the choices of `TRIED`, in its own order."""

    def of(p: Parameter) -> Parameter:
        wanted = (*TRIED.get(p.name, ()), p.default)
        return attrs.evolve(p, choices=tuple(c for c in p.choices if c in wanted))

    return attrs.evolve(space, parameters=tuple(of(p) for p in space.parameters), starts=())


@define
class Book:
    """What was measured so far, a line an evaluation. ``by`` names who had it made: ``space``, or the live
    search."""

    file: Path | None
    end: float
    known: dict[tuple[str, str], dict[str, Evaluation]] = field(factory=dict)
    curves: dict[tuple[Any, ...], list[float]] = field(factory=dict)
    paid: int = 0

    def __attrs_post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            for line in self.file.read_text().splitlines():
                entry = json.loads(line)
                if "search" in entry:
                    self.curves[tuple(entry["search"])] = entry["curve"]
                    continue
                made = from_plain(Evaluation, entry["evaluation"])
                self.of(entry["spec"], entry["by"])[made.candidate_id] = made

    def of(self, spec: str, by: str) -> dict[str, Evaluation]:
        return self.known.setdefault((spec, by), {})

    def add(self, spec: str, by: str, made: Evaluation) -> None:
        self.of(spec, by)[made.candidate_id] = made
        self.paid += 1
        self._write({"spec": spec, "by": by, "evaluation": to_plain(made)})

    def done(self, search: tuple[Any, ...], curve: Sequence[float]) -> None:
        """A search on recorded measurements."""
        self.curves[search] = list(curve)
        self._write({"search": search, "curve": list(curve)})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.file is not None:
            with self.file.open("a") as out:
                out.write(json.dumps(line) + "\n")

    def check_time(self) -> None:
        if time.monotonic() > self.end:
            raise TimeUpError


def measure(kernels: Kernels, book: Book) -> None:
    """Have every distinct kernel of the space evaluated that is not in ``book`` yet."""
    known = book.of(kernels.spec.name, "space")
    made = {c.id: c for c in map(kernels.render, kernels.points())}
    todo = deque(c for key, c in made.items() if key not in known)
    print(f"{kernels.spec.name}: {len(made)} kernels, {len(todo)} to be measured", flush=True)
    if not todo:
        return
    # One sitting's data for all: whether a kernel on the edge of the tolerance passes depends on them.
    secret = next((e.seed for e in known.values()), None)
    executor = open_executor("local", kernels.where, kernels.spec, seed=0, secret=secret)
    flying: deque[Future[Evaluation]] = deque()
    try:
        while todo or flying:
            while todo and len(flying) < _AHEAD and time.monotonic() < book.end:
                request = EvaluationRequest(kernels.spec, todo.popleft(), SEARCH_STAGES)
                flying.append(executor.submit(request))
            if flying:
                book.add(kernels.spec.name, "space", flying.popleft().result())
            else:
                book.check_time()
    finally:
        executor.close()


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
        top = store.top(_GENOMES)
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

    def rows(self, policies: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """A row a policy and mode, and what split is over the better of the others."""
        rows, over = [], {}
        for policy in policies:
            finals: dict[str, list[float]] = {}
            for mode in MODES:
                curves = [self._curve(policy, mode, seed) for seed in range(self.seeds)]
                finals[mode] = [curve[-1] for curve in curves]
                found = row_of(policy, mode, [curves], [self.kernels.spec.name])
                rows.append({**found, "by_seed": finals[mode], "evidence": "measured"})
            over[policy] = difference(finals)
        return rows, over

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
    """Split less the better of off and warm (by their means), paired by seed, with its interval."""
    better = max(("off", "warm"), key=lambda mode: statistics.fmean(finals[mode]))
    each = [a - b for a, b in zip(finals["split"], finals[better], strict=True)]
    low, high = interval(each)
    return {"better": better, "difference": statistics.fmean(each), "low": low, "high": high}


def pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`difference` of the mean over policies."""
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


def shown(kernels: Kernels, book: Book) -> dict[str, Any]:
    """A space as it was measured: a row a point, its score or why there is none at the end."""
    known = book.of(kernels.spec.name, "space")
    free = [p for p in kernels.space.parameters if len(p.choices) > 1]
    rows = []
    for point in kernels.points():
        made = known[kernels.render(point).id]
        end = round(made.score, 4) if made.score is not None else made.verdict.kind.value
        rows.append([*(point[p.name] for p in free), end])
    scores = sorted(e.score for e in known.values() if e.score is not None)
    return {
        "space": kernels.spec.name,
        "tunables": {p.name: list(p.choices) for p in free},
        "points": len(rows),
        "kernels": len(known),
        "failed": len(known) - len(scores),
        "best": scores[-1],
        "median": statistics.median(scores),
        "default": known[kernels.render(kernels.space.default()).id].score,
        "worst": scores[0],
        "seconds": round(sum(e.seconds for e in known.values()), 1),
        "measured": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    specs = HERE / "sessions" / "specs"
    parser.add_argument("--spec", type=Path, default=specs / "softmax.yaml")
    parser.add_argument("--related", type=Path, default=specs / "rmsnorm.yaml", help="where experience is of")
    parser.add_argument("--policies", nargs="+", default=[*sorted(set(POLICIES) - {"independent"}), "bandit"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--live", nargs="*", default=["greedy", "surrogate"], metavar="POLICY")
    parser.add_argument("--live-modes", nargs="+", default=["off"], choices=MODES)
    parser.add_argument("--live-seeds", type=int, default=3)
    parser.add_argument("--kept", type=Path, metavar="FILE", help="evaluations made so far")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; see --kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    book = Book(given.kept, time.monotonic() + given.minutes * 60)
    pair = (Kernels.of(given.spec), Kernels.of(given.related))
    sweep = Sweep(*pair, book, given.seeds, given.evaluations)
    try:
        for kernels in pair:
            measure(kernels, book)
        rows, over = sweep.rows(given.policies)
        report(rows, over)
        live = sweep.live(given.live, given.live_modes, given.live_seeds)
    except TimeUpError:
        raise SystemExit(
            f"{book.paid} evaluations made; the time is up: run the same command again"
        ) from None
    summary = {
        "method": "rows: all searches draw from one measurement of each kernel; live: each measured anew",
        "split_against_the_better": {name: verdict(rows, name) for name in given.policies},
        "split_less_the_better": over,
        "split_less_the_better_over_policies": pooled(rows),
        "split_is_lower_for": [name for name, of in over.items() if of["difference"] < 0],
        "seeds": given.seeds,
        "evaluations": given.evaluations,
        "experience": f"the best {_GENOMES} of a random search of {given.evaluations} on {pair[1].spec.name}",
        "live": live,
        "live_over_recorded": repeated(book, pair[0].spec.name),
        "command": shown_command("search_ablation_cpu.py", sys.argv[1:]),
        "environment": environment() | {"device": pair[0].where.device.name},
    }
    if given.json:
        spaces = [shown(kernels, book) for kernels in pair]
        text = json.dumps({"rows": rows, "summary": summary, "spaces": spaces})
        given.json.write_text(text + "\n")


def report(rows: Sequence[Mapping[str, Any]], over: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'policy':<14}{'memory':<8}{'early':>24}{'final':>24}")
    for row in rows:
        cells = [
            f"{row[key]:.3f} [{row[around][0]:.3f}, {row[around][1]:.3f}]"
            for key, around in (("early", "early_interval"), ("final", "interval"))
        ]
        print(f"{row['policy']:<14}{row['memory']:<8}{cells[0]:>24}{cells[1]:>24}")
    for name, of in over.items():
        print(
            f"{name}: split less {of['better']}, paired by seed: {of['difference']:+.3f} "
            f"[{of['low']:+.3f}, {of['high']:+.3f}]; {verdict(rows, name)}"
        )


if __name__ == "__main__":
    main()
