"""Runs for tests of reports: made by hand, no evaluation behind them."""

from __future__ import annotations

import random
from collections import Counter

from kevolve_core.evolve.result import BestAt, RunResult, TrajectoryPoint
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import (
    Candidate,
    Device,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Profile,
    Ratio,
    Roofline,
    StageRecord,
    Target,
    Verdict,
    VerdictKind,
)
from kevolve_core.report import RunRecord, environment

DEVICE = Device(id="toy:0", backend="toy", name="Toy 9000", target=Target(backend="toy", arch="t1"))


BASELINE = Candidate(
    files={"reference.py": "def rmsnorm(x):\n    return x\n"},
    entry="reference.py",
    language="python",
    symbol="rmsnorm",
)


def spec(*cases: Case) -> KernelSpec:
    return KernelSpec(
        name="rmsnorm",
        reference=Reference(source="def rmsnorm(x):\n    return x\n", symbol="rmsnorm"),
        cases=cases or (case("m4096"), case("odd", role="holdout")),
    )


def case(name: str, role: str = "tune", weight: float = 1.0) -> Case:
    return Case(name=name, inputs=(InputSpec("x", (4096, 1024)),), role=role, weight=weight)


def candidate(number: int = 0) -> Candidate:
    return Candidate(
        files={"kernel.py": f"def rmsnorm(x):\n    return x  # {number}\n", "kernel.cpp": "// native\n"},
        entry="kernel.py",
        language="cpp",
        symbol="rmsnorm",
        origin=Origin("synth", "mutate"),
    )


def measurement(
    name: str = "m4096",
    speedup: float = 2.0,
    *,
    phase: str = "confirm",
    evidence: Evidence = Evidence.MEASURED,
    device: str = "toy:0 Toy 9000",
    spread: float = 0.02,
) -> Measurement:
    """The kernel takes 1 ms, compiled ``speedup`` ms, eager twice that."""
    ratio = Ratio(speedup, speedup * (1 - spread), speedup * (1 + spread), 31)
    eager = Ratio(2 * speedup, 2 * speedup * (1 - spread), 2 * speedup * (1 + spread), 31)
    return Measurement(
        case=name,
        device=device,
        evidence=evidence,
        phase=phase,
        candidate=(1e-3, 1.1e-3, 0.9e-3),
        baselines={"compiled": (speedup * 1e-3,) * 3, "eager": (2 * speedup * 1e-3,) * 3},
        ratios={"compiled": ratio, "eager": eager},
        best_baseline="compiled",
        floor_seconds=0.8e-3,
    )


def accepted(number: int, speedup: float, *, phase: str = "quick") -> Evaluation:
    return Evaluation(
        candidate_id=candidate(number).id,
        verdict=Verdict(VerdictKind.ACCEPTED, stage=phase),
        stages=(StageRecord("rules", 0.01, "passed"), StageRecord("compile", 1.2, "passed")),
        measurements=(measurement(speedup=speedup, phase=phase),),
        score=speedup,
        evidence=Evidence.MEASURED,
        profile=Profile(
            evidence=Evidence.MEASURED,
            roofline=Roofline(33.6e6, 1.7e7, 42e9, 1.5e12, 0.8e-3, 0.8),
            bottleneck="memory",
            hints=("bytes_per_s is 80 % of the copy bandwidth: only less traffic can help",),
        ),
        seed=1234,
        seconds=1.5,
    )


def record(*, improved: bool = True, count: int = 40) -> RunRecord:
    """A run that climbs to 2.0 (or 0.97), with failures of three kinds and a duplicate on the way."""
    rng = random.Random(3)
    points: list[TrajectoryPoint] = []
    kinds = (VerdictKind.COMPILE_ERROR, VerdictKind.WRONG_RESULT, VerdictKind.TIMEOUT)
    limit = 2.0 if improved else 0.97
    best: float | None = None
    for number in range(count):
        verdict, score = VerdictKind.ACCEPTED, None
        if rng.random() < 0.25:
            verdict = rng.choice(kinds)
        else:
            score = limit - (limit - 0.5) * rng.random() ** 2 * (1 - number / (2 * count))
            best = max(score, best or score)
        points.append(
            TrajectoryPoint(
                sequence=number,
                operator="mutate" if number else "draft",
                parents=(),
                candidate_id=candidate(number).id,
                verdict=verdict,
                score=score,
                best=best,
                reused_from=None,
                seconds=1.4 * (number + 1),
            )
        )
    leader = next(p for p in points if p.score == best)
    kernel = candidate(leader.sequence)
    evaluation = accepted(leader.sequence, best or 1.0, phase="confirm")
    result = RunResult(
        best=kernel if improved else None,
        evaluation=evaluation if improved else None,
        confirmed=improved,
        stopped="seconds",
        reason="a kernel beat the baseline" if improved else "no kernel beat the baseline",
        resumable=False,
        trajectory=tuple(points),
        counts=Counter(p.verdict.value for p in points if p.verdict),
        seconds=61.3,
        evaluations=count,
        duplicates=0,
        tokens=0,
        money=0.0,
        best_at=BestAt(leader.sequence, leader.seconds, leader.sequence + 1, 0, 0.0) if improved else None,
    )
    return RunRecord(
        spec=spec(),
        device=DEVICE,
        result=result,
        kernel=kernel if improved else BASELINE,
        evaluation=evaluation,
        examples={"compile_error": "kernel.cpp:3: error: expected ';' | and a pipe"},
        settings={"policy": "evolutionary", "generator": "synth", "seed": 0, "budget": {"seconds": 60.0}},
        environment=environment(),
    )
