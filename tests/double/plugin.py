"""A plugin for tests of the API and the command line: backend, generator and executor without any hardware.

The executor judges by the genome alone, so that whole runs take milliseconds.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kevolve_core.errors import DegenerateSpecError, ToolchainMissingError
from kevolve_core.interfaces import API_VERSION, Baseline, EvaluationRequest, Manifest, Proposal
from kevolve_core.model import (
    Candidate,
    Device,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Ratio,
    StageRecord,
    Target,
    Verdict,
    VerdictKind,
)
from kevolve_core.registry import Registry, hookimpl

MANIFEST = Manifest(
    name="toy",
    api_version=API_VERSION,
    languages=("python",),
    capabilities=frozenset({"compile", "run", "time"}),
    description="nothing at all",
)
DEVICE = Device(id="toy:0", backend="toy", name="Toy 9000", target=Target("toy", "t1"))


class ToyBackend:
    """A backend without parts: the toy executor needs none."""

    manifest = MANIFEST

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def probe(self) -> Sequence[Device]:
        return (DEVICE,)

    def baselines(self, spec: object, device: Device) -> Sequence[Baseline]:
        del spec, device
        return (Baseline("eager", "eager", "x:y"), Baseline("torch.compile", "compiled", "x:z"))

    def knowledge(self) -> Sequence[Path]:
        return ()

    def standalone_loader(self, language: str) -> str:
        del language
        return ""


class ToyGenerator:
    """Kernels with a number as genome; the larger, the faster. Some fail."""

    name = "toy"

    def __init__(self, **where: Any) -> None:
        del where

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        rng = random.Random(f"{context.seed}/{context.sequence}/{context.attempt}")
        start = max((float((p.genome or {}).get("speed", 1.0)) for p in context.parents), default=0.8)
        found = []
        for _ in range(n):
            speed = round(start + rng.uniform(-0.1, 0.2), 4)
            kind = rng.choices(("", "wrong_result", "compile_error"), (8, 1, 1))[0]
            symbol = context.spec.reference.symbol
            text = f"SPEED, KIND = {speed}, {kind!r}\n\n\ndef {symbol}(x):\n    return x + 1\n"
            found.append(
                Candidate(
                    files={"kernel.py": text},
                    entry="kernel.py",
                    language="python",
                    symbol=symbol,
                    parents=tuple(p.id for p in context.parents),
                    genome={"speed": speed, "kind": kind},
                    origin=Origin("toy", context.operator),
                )
            )
        return found


class ToyExecutor:
    """Answers by the genome.

    ``TOY_LIMIT`` caps speeds, ``TOY_DELAY`` is seconds an evaluation, ``TOY_VERDICT`` is everyone's verdict,
    ``TOY_FAULT`` makes the check (``degenerate``) or every evaluation (``toolchain``) raise.
    """

    def __init__(self, **where: Any) -> None:
        self._secret = int(where.get("secret") or 7)
        self._limit = float(os.environ.get("TOY_LIMIT", "2.0"))
        self._delay = float(os.environ.get("TOY_DELAY", "0"))
        self._fault = os.environ.get("TOY_FAULT", "")
        self._pool = ThreadPoolExecutor(2)
        self.closed = False

    def check_spec(self) -> None:
        if self._fault == "degenerate":
            raise DegenerateSpecError("the oracle would accept zeros as the answer", where="case 'a'")

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        return self._pool.submit(self._evaluate, request)

    def close(self) -> None:
        self.closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _evaluate(self, request: EvaluationRequest) -> Evaluation:
        time.sleep(self._delay)
        if self._fault == "toolchain":
            raise ToolchainMissingError("there is no C++ compiler", mend="apt-get install g++")
        candidate, spec = request.candidate, request.spec
        genome = candidate.genome or {"speed": 1.0, "kind": ""}
        kind = VerdictKind(os.environ.get("TOY_VERDICT") or genome["kind"] or "accepted")
        stages = tuple(StageRecord(name, 0.01, "passed") for name in request.stages)
        if kind is not VerdictKind.ACCEPTED:
            detail = {"case": "a", "index": [3, 17], "got": 0.5, "expected": 0.25, "bound": 1e-6}
            failed = (*stages[:1], StageRecord("cases", 0.01, kind.value))
            verdict = Verdict(kind, "value [3, 17] is off by 0.25", "cases", detail)
            return Evaluation(candidate.id, verdict, failed, seed=self._secret, seconds=0.01)
        speed = min(self._limit, float(genome["speed"]))
        phase = next((p for p in ("confirm", "race", "quick") if p in request.stages), "quick")
        measurements = tuple(self._timed(case.name, phase, speed) for case in spec.timed_cases)
        return Evaluation(
            candidate_id=candidate.id,
            verdict=Verdict(VerdictKind.ACCEPTED, stage=stages[-1].stage),
            stages=stages,
            measurements=measurements,
            score=speed,
            evidence=Evidence.MEASURED,
            seed=self._secret,
            seconds=0.01,
        )

    def _timed(self, case: str, phase: str, speed: float) -> Measurement:
        def ratio(value: float) -> Ratio:
            return Ratio(value, value * 0.98, value * 1.02, 9)

        return Measurement(
            case=case,
            device="toy:0 Toy 9000",
            evidence=Evidence.MEASURED,
            phase=phase,
            candidate=(1e-3 / speed,) * 9,
            baselines={"torch.compile": (1e-3,) * 9, "eager": (2e-3,) * 9},
            ratios={"torch.compile": ratio(speed), "eager": ratio(2 * speed)},
            best_baseline="torch.compile",
        )


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, ToyBackend)
    registry.add_generator("toy", ToyGenerator)
    registry.add_executor("toy", ToyExecutor)


SPEC = """\
kevolve: 1
name: add_one
reference:
  python: |
    def add_one(x):
        return x + 1
  symbol: add_one
inputs:
  x: {shape: [8, 8]}
"""


def write_files(folder: Path) -> None:
    """``spec.yaml`` and a ``plugins.toml`` that has the toy plugin alone."""
    (folder / "spec.yaml").write_text(SPEC)
    (folder / "plugins.toml").write_text(
        f'schema = 1\n[core]\nautoload = "listed"\n[plugins.toy]\npath = "{Path(__file__).resolve()}"\n'
    )
