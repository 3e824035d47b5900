"""The evaluation pipeline as data: an ordered table of stages, cheapest first, each recorded.

A stage is a function of a `Trial` (one candidate on its way through). It returns what it learned, or raises:
`RejectedError` for what the candidate did; `CompileError`, `UnsupportedError` and `WorkerError` for what
became of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

from kevolve_core.errors import WorkerError
from kevolve_core.evaluate.lock import building
from kevolve_core.evaluate.race import (
    RejectedError,
    Rounds,
    inspect_process,
    judge_output,
    measure,
    measurement,
)
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.evaluate.session import Contender, Session
from kevolve_core.evaluate.statistics import weighted_geomean
from kevolve_core.interfaces import Compiler, EvaluationRequest, Work
from kevolve_core.kernelspec import Case
from kevolve_core.model import Artifact, Measurement, Profile

__all__ = ["PIPELINE", "SEARCH_STAGES", "STAGES", "Plan", "Stage", "Trial"]

_SMALL = 1 << 21  # elements up to which every variant and layout is tried on a case during search
#: A time under this share of the floor is not believed. The floor's bandwidth is measured, with some noise.
_FLOOR_SHARE = 0.8


@frozen
class Plan:
    """How much is measured where. ``seconds`` bound one case's timing.

    Args:
        quick_rounds: rounds against the best baseline that rank a candidate during search.
        race_rounds: rounds of finalists against every baseline.
        confirm_rounds: rounds of the winner in fresh processes.
        seconds: wall-clock bound of one case's rounds.
    """

    quick_rounds: int = 4
    race_rounds: int = 10
    confirm_rounds: int = 20
    seconds: float = 30.0


@define
class Trial:
    """One candidate on its way through the stages, and what was learned so far."""

    request: EvaluationRequest
    session: Session
    compiler: Compiler
    plan: Plan
    memory: dict[str, Any]  # facts of the spec shared between trials: best baselines, floors, small cases
    artifacts: dict[str, Artifact] = field(factory=dict)
    measurements: list[Measurement] = field(factory=list)
    library_calls: tuple[str, ...] = ()
    profile: Profile | None = None

    @property
    def lane(self) -> str:
        return "candidate"

    def contender(self, case: Case) -> Contender:
        return self.session.candidate(self.request.candidate, self.artifacts[case.name], case, self.lane)


def rules(trial: Trial) -> Mapping[str, Any]:
    violations = check_candidate(trial.request.candidate)
    if violations:
        raise RejectedError(
            "rule_violation", str(violations[0]), {"violations": [str(v) for v in violations[:20]]}
        )
    return {}


def compile_(trial: Trial) -> Mapping[str, Any]:
    request = trial.request
    with building(trial.session.device):
        for case in request.spec.cases:
            trial.artifacts[case.name] = trial.compiler.compile(
                request.candidate, request.spec, case, trial.session.device.target
            )
    artifacts = trial.artifacts.values()
    return {
        "cached": all(a.cached for a in artifacts),
        "diagnostics": next((a.diagnostics for a in artifacts if a.diagnostics), "")[:2000],
    }


def small(trial: Trial) -> Mapping[str, Any]:
    """The smallest tune case, on every variant and layout; also which library operators it calls."""
    case = _smallest(trial)
    checked = _check(trial, case, everything=True)
    contender = trial.contender(case)
    contender.prepare(trial.session.kept(case, "base", "contiguous"), flush=False, poison=0)
    trial.library_calls = tuple(
        contender.worker.call("trace", limits=contender.limits).value["library_calls"]
    )
    if trial.library_calls and trial.request.spec.options.get("library_calls") == "forbid":
        raise RejectedError("rule_violation", f"calls {trial.library_calls[0]}, which the spec forbids")
    return {"checked": checked, "library_calls": list(trial.library_calls)}


def cases(trial: Trial) -> Mapping[str, Any]:
    """Every other tune case: all variants where it is small, else the base one and one chosen by the seed."""
    smallest = _smallest(trial)
    others = [c for c in trial.request.spec.with_role("tune") if c.name != smallest.name]
    return {"checked": sum(_check(trial, c, everything=False) for c in others)}


def quick(trial: Trial) -> Mapping[str, Any]:
    """A few rounds against the best baseline of each timed case: enough to rank."""
    _time(trial, "quick", trial.plan.quick_rounds, checks=1, best_only=True)
    return {}


def race(trial: Trial) -> Mapping[str, Any]:
    """More rounds, against every baseline."""
    _time(trial, "race", trial.plan.race_rounds, checks=2, best_only=False)
    return {}


def confirm(trial: Trial) -> Mapping[str, Any]:
    """Again in fresh processes, so that best-of-N luck and a poisoned process do not survive; every
    variant."""
    trial.session.retire(trial.lane)
    trial.session.retire_baselines()
    for case in trial.request.spec.with_role("tune"):
        _check(trial, case, everything=True, salt=1)
    trial.session.retire(trial.lane)
    _time(trial, "confirm", trial.plan.confirm_rounds, checks=3, best_only=False)
    return {}


def holdout(trial: Trial) -> Mapping[str, Any]:
    """Cases the search never saw."""
    return {
        "checked": sum(
            _check(trial, c, everything=True, salt=2) for c in trial.request.spec.with_role("holdout")
        )
    }


def profile(trial: Trial) -> Mapping[str, Any]:
    """Where the time goes, on the heaviest timed case."""
    profiler = trial.session.backend.profiler(trial.session.device)
    timed = [m for m in trial.measurements if m.candidate]
    if profiler is None or not timed:
        return {}
    m = max(timed, key=lambda m: _median(m.candidate))
    case = trial.request.spec.case(m.case)
    work = _work(trial, case)
    trial.profile = profiler.profile(
        trial.request.spec, case, work, _median(m.candidate), trial.artifacts[case.name], {}
    )
    return {"bottleneck": trial.profile.bottleneck}


@frozen
class Stage:
    """A row of the pipeline. ``on_device`` stages run one at a time; the others beside them."""

    name: str
    run: Callable[[Trial], Mapping[str, Any]]
    on_device: bool = True


PIPELINE: tuple[Stage, ...] = (
    Stage("rules", rules, on_device=False),
    Stage("compile", compile_, on_device=False),
    Stage("small", small),
    Stage("cases", cases),
    Stage("quick", quick),
    Stage("race", race),
    Stage("confirm", confirm),
    Stage("holdout", holdout),
    Stage("profile", profile),
)
STAGES = tuple(s.name for s in PIPELINE)
SEARCH_STAGES = ("rules", "compile", "small", "cases", "quick")


def score(trial: Trial) -> float | None:
    """Weighted geomean over timed cases of the paired speed-up over the best baseline, latest phase first."""
    latest = {m.case: m for m in trial.measurements}
    values, weights = [], []
    for case in trial.request.spec.timed_cases:
        m = latest.get(case.name)
        ratio = m.best_ratio if m is not None else None
        if ratio is None:
            return None
        values.append(ratio.value)
        weights.append(case.weight)
    return weighted_geomean(values, weights) if values else None


def _smallest(trial: Trial) -> Case:
    tune = trial.request.spec.with_role("tune")
    return min(tune, key=lambda c: trial.session.plan(c).elements)


def _check(trial: Trial, case: Case, *, everything: bool, salt: int = 0) -> int:
    """Run the candidate untimed on variants and layouts of a case and have every output judged. Without
    ``salt`` the inputs are those that every candidate of the session is tried on."""
    session = trial.session
    plan = session.plan(case)
    todo = [(v, "contiguous") for v in plan.variants]
    todo += [("base", layout) for layout in plan.layouts if layout != "contiguous"]
    if not everything and plan.elements > _SMALL and len(todo) > 2:
        hostile = random.Random(f"{session.secret}/{case.name}")
        todo = [todo[0], hostile.choice(todo[1:])]
    contender = trial.contender(case)
    for variant, layout in todo:
        inputs = session.drawn(case, variant, layout, salt) if salt else session.kept(case, variant, layout)
        try:
            contender.prepare(inputs, flush=False, poison=plan.output_bytes)
            contender.run()
            inspect_process(contender, inputs.label)
            judge_output(session, contender, inputs)
        finally:
            if salt:
                session.drop(inputs)
    return len(todo)


def _time(trial: Trial, phase: str, rounds: int, *, checks: int, best_only: bool) -> None:
    session, seed = trial.session, trial.request.seed
    for case in trial.request.spec.timed_cases:
        best = _best_baseline(trial, case) if best_only else ""
        baselines = [
            side
            for b in session.baselines()
            if (not best_only or b.name == best) and (side := session.baseline(b, case)) is not None
        ]
        witness = session.eager(case)
        contender = trial.contender(case)
        floor = _floor(trial, case)

        def sample(
            contender: Contender = contender,
            case: Case = case,
            baselines: list[Contender] = baselines,
            witness: Contender | None = witness,
            floor: float = floor,
        ) -> Measurement:
            budget = Rounds(rounds, checks, trial.plan.seconds, cheap=phase == "quick")
            samples = measure(session, case, [contender], baselines, budget, seed=seed, witness=witness)
            return measurement(samples, contender.name, case.name, session, phase, floor, seed)

        m = sample()
        if _median(m.candidate) < _FLOOR_SHARE * floor:  # quarantined: once more, and then it is a violation
            m = sample()
            if _median(m.candidate) < _FLOOR_SHARE * floor:
                raise RejectedError(
                    "rule_violation",
                    "is faster than its compulsory memory traffic allows",
                    {"case": case.name, "seconds": _median(m.candidate), "floor_seconds": floor},
                )
        trial.measurements.append(m)


def _best_baseline(trial: Trial, case: Case) -> str:
    """The fastest baseline of a case, found once a session by timing them against one another."""
    memory = trial.memory.setdefault("best_baseline", {})
    if case.name not in memory:
        session = trial.session
        sides = [s for b in session.baselines() if (s := session.baseline(b, case)) is not None]
        if len(sides) < 2:
            memory[case.name] = sides[0].name if sides else ""
        else:
            samples = measure(
                session, case, [], sides, Rounds(5, 0, trial.plan.seconds), seed=trial.request.seed
            )
            memory[case.name] = min(samples.seconds, key=lambda n: _median(tuple(samples.seconds[n])))
    return str(memory[case.name])


def _work(trial: Trial, case: Case) -> Work:
    memory: dict[str, Work] = trial.memory.setdefault("work", {})
    if case.name not in memory:
        memory[case.name] = trial.session.work(case)
    return memory[case.name]


def _floor(trial: Trial, case: Case) -> float:
    """The profiler's lower bound for the case's compulsory work; 0.0 where the backend has none."""
    memory: dict[str, float] = trial.memory.setdefault("floor", {})
    if case.name not in memory:
        profiler = trial.session.backend.profiler(trial.session.device)
        memory[case.name] = profiler.floor(_work(trial, case)) if profiler is not None else 0.0
    return memory[case.name]


def _median(values: tuple[float, ...]) -> float:
    ordered = sorted(values)
    if not ordered:
        raise WorkerError("no samples were taken")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
