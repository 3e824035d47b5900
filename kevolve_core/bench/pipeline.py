"""A sweep's pipeline: problems are proposed for and compiled side by side on the CPU's cores, and measured
one after another on the device, so that it waits for nobody as long as there are cores enough."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from attrs import define, field

from kevolve_core.api.parts import Place
from kevolve_core.bench.check import is_generated
from kevolve_core.bench.pool import BASELINE, Checker
from kevolve_core.bench.problems import Problem
from kevolve_core.bundle import export, with_reference_weights
from kevolve_core.errors import KevolveError, WorkerError
from kevolve_core.evaluate.lock import building, timing
from kevolve_core.evaluate.statistics import paired_ratio
from kevolve_core.interfaces import Compiler
from kevolve_core.isolate.process import RemoteError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.serial import from_plain, to_plain

__all__ = ["Pipeline", "workers"]

Row = dict[str, Any]
_MEASURE_S = 90.0  # of one problem on the device, before its process is given up; `estimated`
_RACE_S = 0.7  # of the rounds of one finalist
_MARGIN = 1.01  # times the best baseline from which a kernel is delivered: less is the clock's noise
_TIMEOUTS = 1  # measurements again after one that did not end; after a crash, as many as there are candidates


def workers(where: Place) -> int:
    """Problems in work at a time: three cores in four, or one where the device is made of the same cores."""
    return 1 if where.device.shares_host else max(2, 3 * len(os.sched_getaffinity(0)) // 4)


@define
class Pipeline:
    """What problems share: the compiler, and its threads.

    Args:
        where: backend and device.
        count: candidates a problem.
        seed: of weights and proposals.
        out: the best kernels are exported below it.
        cores: that the process which measures has for itself.
    """

    where: Place
    count: int
    seed: int
    out: Path
    cores: tuple[int, ...] = ()
    _compiler: Compiler = field(init=False)
    _threads: ThreadPoolExecutor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._compiler = self.where.backend.compiler(self.where.device)
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="kevolve-build")

    def stop(self) -> None:
        """Give up: whoever waits for a build gets a ``CancelledError``, and the compiler's workers end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        getattr(self._compiler, "close", lambda: None)()

    def close(self) -> None:
        """`stop`, and wait for builds that are running."""
        self.stop()
        self._threads.shutdown(wait=True)

    def row(self, problem: Problem, spec: KernelSpec, worker: Checker) -> Row:
        """The measured row of one problem.

        Raises:
            WorkerError: the process died or hung; KevolveError: the problem cannot be captured or printed.
        """
        begun = time.perf_counter()
        lost: dict[str, str] = {}
        without: list[str] = []
        timeouts = 0
        while True:
            plan = worker.call("plan", {"spec": to_plain(spec), "seed": self.seed, "count": self.count})
            candidates = [from_plain(Candidate, c) for c in plan["candidates"]]
            builds = [self._threads.submit(self._built, c, spec) for c in candidates if c.id not in lost]
            compiled = worker.call("compile", {"without": without})
            built = [b.result() for b in builds]
            entries = [b for b in built if "artifact" in b]
            arguments = {
                "entries": entries, "seed": self._secret(problem), "seconds": _RACE_S, "cores": self.cores
            }  # fmt: skip
            asked = time.perf_counter()
            try:
                with timing(self.where.device):
                    held = time.perf_counter()
                    waited = held - asked
                    found = worker.call("measure", arguments, seconds=_MEASURE_S)
                    held = time.perf_counter() - held
                break
            except WorkerError as error:  # a fresh process goes on with the other candidates
                culprit = _culprit(error, worker)
                if (name := _baseline(error)) and name not in without:
                    without.append(name)
                    continue
                timeouts += error.kind == "timeout"
                if culprit is None or timeouts > _TIMEOUTS or worker.closed:
                    raise
                taken = from_plain(Candidate, entries[culprit]["candidate"])
                lost[taken.id] = _blame(error, taken)
        row: Row = {
            "correct": False, "generated_correct": False, "libraries": [], "reason": "",
            "steps": plan["steps"], "first_proposal_s": plan["propose_s"],
            "baseline_compile_s": compiled["compile_s"], "device_s": round(held, 3),
            "phases_s": found["phases"],
            "timed_s": round(found["timed_s"], 4), "waited_s": round(waited, 3),
            "tried": len(built) + len(lost),
            "verdicts": _verdicts(built, found["candidates"], len(lost)),
            "reasons": sorted({*lost.values(), *(b["refused"] for b in built if "refused" in b),
                               *(c["reason"] for c in found["candidates"] if c["reason"])}),
            "broken_baselines": found["broken"],
            "baselines_s": {name: median(v) for name, v in found["quick"].items()},
        }  # fmt: skip
        self._finish(row, problem, spec, entries, found, [*lost.values()])
        row["wall_s"] = round(time.perf_counter() - begun, 3)
        return row

    def _secret(self, problem: Problem) -> int:
        return int.from_bytes(hashlib.sha256(f"{problem.id}/{self.seed}".encode()).digest()[:6], "big")

    def _built(self, candidate: Candidate, spec: KernelSpec) -> Row:
        device = self.where.device
        try:
            with building(device):
                artifact = self._compiler.compile(candidate, spec, spec.cases[0], device.target)
        except KevolveError as error:
            return {"candidate": to_plain(candidate), "refused": f"{type(error).__name__}: {error}"[:300]}
        return {"candidate": to_plain(candidate), "artifact": to_plain(artifact)}

    def _finish(
        self,
        row: Row,
        problem: Problem,
        spec: KernelSpec,
        entries: Sequence[Row],
        found: Mapping[str, Any],
        lost: Sequence[str],
    ) -> None:
        """Verdict, ratios and the exported kernel: the best one, also where the baseline is delivered."""
        winner = found["winner"]
        if winner is None:
            reasons = [*(c["reason"] for c in found["candidates"] if c["reason"]), *lost]
            row["reason"] = reasons[0] if reasons else "no candidate was compiled"
            row["delivered"] = "baseline"
            return
        candidate = from_plain(Candidate, entries[winner["number"]]["candidate"])
        own = winner["samples"].pop("candidate")
        ratios = {name: paired_ratio(v, own, self.seed) for name, v in winner["samples"].items()}
        times = {name: median(v) for name, v in winner["samples"].items()}
        best = min(times, key=lambda name: times[name])
        row |= {
            "correct": True, "libraries": winner["libraries"], "remarks": winner["remarks"],
            "generated_correct": is_generated(winner["libraries"]), "language": candidate.language,
            "genome": dict(candidate.genome or {}).get("steps"), "baselines_s": times,
            "rewrites": dict(candidate.origin.notes).get("rewrites", "") if candidate.origin else "",
            "candidate_s": median(own), "best_baseline": best, "ratio": ratios[best].value,
            "interval": [ratios[best].low, ratios[best].high], "rounds": len(own), "evidence": "measured",
            "ratio_to": {name: r.value for name, r in ratios.items()},
            "delivered": "candidate" if ratios[best].low > _MARGIN else "baseline",
        }  # fmt: skip
        text = export(candidate, self.where.backend.standalone_loader(candidate.language))
        path = self.out / "kernels" / f"level{problem.level}" / f"{problem.number}_{problem.name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        reference = spec.reference
        path.write_text(with_reference_weights(text, reference.source, reference.symbol), encoding="utf-8")
        row["kernel"] = str(path.relative_to(self.out))


def _baseline(error: WorkerError) -> str:
    """The baseline that took the device down, or ""."""
    got = error.parts.get("got", "") if isinstance(error, RemoteError) else ""
    return got.removeprefix(BASELINE) if got.startswith(BASELINE) else ""


def _culprit(error: WorkerError, worker: Checker) -> int | None:
    """Which candidate a measuring process was lost to; None where it was not lost, or to none of them."""
    if isinstance(error, RemoteError):
        number = error.parts.get("got", "") or worker.measuring() if error.lost else ""
    else:
        number = worker.measuring()
    return int(number) if number.isdigit() else None


def _blame(error: WorkerError, candidate: Candidate) -> str:
    notes = dict(candidate.origin.notes) if candidate.origin else {}
    which = f"{candidate.id[:12]} ({candidate.language}; {notes.get('rewrites', '')})"
    if isinstance(error, RemoteError) and error.parts:
        return f"crash: {which}: {error.parts.get('what', '')}: {error.parts.get('where', '')}"[:300]
    return f"{error.kind}: {which}: {error}"[:300]


def _verdicts(built: Sequence[Row], measured: Sequence[Row], lost: int) -> dict[str, int]:
    """How many candidates came to which end."""
    found = {
        "accepted": sum(not c["reason"] for c in measured),
        "wrong_or_failed": sum(bool(c["reason"]) for c in measured),
        "refused_by_compiler": sum("refused" in b for b in built),
        "crash": lost,
    }
    return {k: v for k, v in found.items() if v}
