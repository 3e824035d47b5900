"""What a candidate is timed against, and what its time is held to: baselines, the user's kernels, the
floor."""

from __future__ import annotations

import attrs

from kevolve_core.errors import KevolveError
from kevolve_core.evaluate.lock import building
from kevolve_core.evaluate.race import RejectedError, Rounds, judge_output, measure, measurement
from kevolve_core.evaluate.session import Contender
from kevolve_core.evaluate.trial import Trial, median_of
from kevolve_core.interfaces import Work
from kevolve_core.kernelspec import Case
from kevolve_core.model import Candidate, Measurement

__all__ = ["time_candidate", "work_of"]

#: A time under this share of the floor is not believed. The floor's bandwidth is measured, with some noise.
_FLOOR_SHARE = 0.8


def time_candidate(trial: Trial, phase: str, rounds: Rounds, *, best_only: bool) -> None:
    """Measure the trial's candidate on every timed case, against all baselines or the fastest one only.

    A time under the floor is taken again, and if it stays there the candidate is rejected.
    """
    for case in trial.request.spec.timed_cases:
        sides = _sides(trial, case)
        if best_only:
            best = _best(trial, case, sides)
            sides = [s for s in sides if s.name == best]
        floor = _floor(trial, case)
        m = _sample(trial, case, sides, phase, rounds)
        if median_of(m.candidate) < _FLOOR_SHARE * floor:
            m = _sample(trial, case, sides, phase, attrs.evolve(rounds, cheap=False))
            if median_of(m.candidate) < _FLOOR_SHARE * floor:
                raise RejectedError(
                    "rule_violation",
                    "is faster than its compulsory memory traffic allows",
                    {"case": case.name, "seconds": median_of(m.candidate), "floor_seconds": floor},
                )
        trial.measurements.append(m)


def _sample(trial: Trial, case: Case, sides: list[Contender], phase: str, rounds: Rounds) -> Measurement:
    session, seed = trial.session, trial.request.seed
    contender = trial.contender(case)
    witness = session.eager(case)
    samples = measure(session, case, [contender], sides, rounds, seed=seed, witness=witness)
    return measurement(samples, contender.name, case.name, session, phase, _floor(trial, case), seed)


def _sides(trial: Trial, case: Case) -> list[Contender]:
    """Every baseline that runs, the user's own kernels among them: what is returned is never slower than
    those."""
    session = trial.session
    found = [s for b in session.baselines() if (s := session.baseline(b, case)) is not None]
    kernels = {f"seed {seed.id}": seed for seed in trial.request.spec.seeds} | session.yardsticks
    sides = (_kernel(trial, name, kernel, case) for name, kernel in kernels.items())
    return found + [side for side in sides if side is not None]


def _kernel(trial: Trial, name: str, seed: Candidate, case: Case) -> Contender | None:
    """A kernel (the user's, or what stands in for a baseline) as a baseline, in a worker of its own; None
    where it does not build or is wrong, which its own evaluation as a candidate records."""
    broken: set[str] = trial.memory.setdefault("broken_seeds", set())
    checked: set[tuple[str, str]] = trial.memory.setdefault("checked_seeds", set())
    if seed.id in broken:
        return None
    session = trial.session
    try:
        with building(session.device):
            artifact = trial.compiler.compile(seed, trial.request.spec, case, session.device.target)
        side = session.candidate(seed, artifact, case, lane=f"seed-{seed.id}", name=name)
        if (seed.id, case.name) not in checked:
            inputs = session.kept(case, "base", "contiguous")
            side.prepare(inputs, flush=False, poison=session.plan(case).output_bytes)
            side.run()
            judge_output(session, side, inputs)
            checked.add((seed.id, case.name))
    except (KevolveError, RejectedError):
        broken.add(seed.id)
        session.retire(f"seed-{seed.id}")
        return None
    return side


def _best(trial: Trial, case: Case, sides: list[Contender]) -> str:
    """The fastest side of a case, found once a session by timing them against one another."""
    memory: dict[str, str] = trial.memory.setdefault("best_baseline", {})
    if case.name not in memory:
        if len(sides) < 2:
            memory[case.name] = sides[0].name if sides else ""
        else:
            rounds = Rounds(5, 0, trial.plan.quick_seconds)
            samples = measure(trial.session, case, [], sides, rounds, seed=trial.request.seed)
            memory[case.name] = min(samples.seconds, key=lambda n: median_of(tuple(samples.seconds[n])))
    return memory[case.name]


def work_of(trial: Trial, case: Case) -> Work:
    """The case's compulsory work, counted once a session."""
    memory: dict[str, Work] = trial.memory.setdefault("work", {})
    if case.name not in memory:
        memory[case.name] = trial.session.work(case)
    return memory[case.name]


def _floor(trial: Trial, case: Case) -> float:
    """The profiler's lower bound for the case's compulsory work; 0.0 where the backend has none."""
    memory: dict[str, float] = trial.memory.setdefault("floor", {})
    if case.name not in memory:
        profiler = trial.session.backend.profiler(trial.session.device)
        memory[case.name] = profiler.floor(work_of(trial, case)) if profiler is not None else 0.0
    return memory[case.name]
