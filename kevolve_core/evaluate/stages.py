"""The evaluation pipeline as data: an ordered table of stages, cheapest first, each recorded.

A stage is a function of a `Trial`. It returns what it learned, or raises: `RejectedError` for what the
candidate did; `CompileError`, `UnsupportedError` and `WorkerError` for what became of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from kevolve_core.evaluate.code import code_key
from kevolve_core.evaluate.lock import building, timing
from kevolve_core.evaluate.race import RejectedError, Rounds, inspect_process, judge_output
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.evaluate.session import closing
from kevolve_core.evaluate.timed import time_candidate, work_of
from kevolve_core.evaluate.trial import Trial, median_of
from kevolve_core.kernelspec import Case

__all__ = ["PIPELINE", "SEARCH_STAGES", "STAGES", "Stage"]

_COUNTED_CALLS = 3
_SMALL = 1 << 21  # elements up to which every variant and layout is tried on a case during search


def rules(trial: Trial) -> Mapping[str, Any]:
    violations = check_candidate(trial.request.candidate, trial.session.backend.manifest.modules)
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
    trial.code = code_key(request.candidate, trial.artifacts)
    return {
        "cached": all(a.cached for a in artifacts),
        "diagnostics": next((a.diagnostics for a in artifacts if a.diagnostics), "")[:2000],
        "code": trial.code,
    }


def small(trial: Trial) -> Mapping[str, Any]:
    """The smallest tune case, on every variant and layout; also which library operators it calls."""
    case = _smallest(trial)
    checked = _check(trial, case, everything=True)
    contender = trial.contender(case)
    contender.prepare(trial.session.kept(case, "base", "contiguous"), flush=False, poison=0)
    traced = contender.worker.call("trace", limits=contender.limits).value
    trial.library_calls = tuple(traced["library_calls"])
    if trial.library_calls and trial.request.spec.options.get("library_calls") == "forbid":
        raise RejectedError("rule_violation", f"calls {trial.library_calls[0]}, which the spec forbids")
    found = {"checked": checked, "library_calls": list(trial.library_calls)}
    return found | ({"remarks": traced["remarks"]} if traced.get("remarks") else {})


def cases(trial: Trial) -> Mapping[str, Any]:
    """Every other tune case: all variants where it is small, else the base one and one chosen by the seed."""
    smallest = _smallest(trial)
    others = [c for c in trial.request.spec.with_role("tune") if c.name != smallest.name]
    return {"checked": sum(_check(trial, c, everything=False) for c in others)}


def quick(trial: Trial) -> Mapping[str, Any]:
    """A few rounds against the best baseline of each timed case: enough to rank."""
    plan = trial.plan
    time_candidate(
        trial, "quick", Rounds(plan.quick_rounds, 1, plan.quick_seconds, cheap=True), best_only=True
    )
    return {}


def race(trial: Trial) -> Mapping[str, Any]:
    """More rounds, against every baseline."""
    plan = trial.plan
    time_candidate(trial, "race", Rounds(plan.race_rounds, 2, plan.race_seconds), best_only=False)
    return {}


def confirm(trial: Trial) -> Mapping[str, Any]:
    """Again in fresh processes, so that best-of-N luck and a poisoned process do not survive; every
    variant."""
    trial.session.retire(trial.lane)
    trial.session.retire_baselines()
    for case in trial.request.spec.with_role("tune"):
        _check(trial, case, everything=True, salt=1)
    trial.session.retire(trial.lane)
    plan = trial.plan
    time_candidate(trial, "confirm", Rounds(plan.confirm_rounds, 3, plan.confirm_seconds), best_only=False)
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
    m = max(timed, key=lambda m: median_of(m.candidate))
    case = trial.request.spec.case(m.case)
    work = work_of(trial, case)
    trial.profile = profiler.profile(
        trial.request.spec,
        case,
        work,
        median_of(m.candidate),
        trial.artifacts[case.name],
        _counters(trial, case),
    )
    return {"bottleneck": trial.profile.bottleneck}


def _counters(trial: Trial, case: Case) -> dict[str, float]:
    """What the runner counts during one call, averaged over a few."""
    contender, session = trial.contender(case), trial.session
    total: dict[str, float] = {}
    with timing(session.device):
        for _ in range(_COUNTED_CALLS):
            with closing(session.fresh(case), session) as inputs:
                contender.prepare(inputs, flush=True, poison=session.plan(case).output_bytes)
                for name, value in contender.run(counters=True).value["counters"].items():
                    total[name] = total.get(name, 0.0) + value / _COUNTED_CALLS
    return total


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
