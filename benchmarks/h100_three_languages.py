"""The same twelve problems by hand in Triton, CUDA C++ (NVRTC) and CuTe DSL: judged, timed, side by side.

    python benchmarks/h100_three_languages.py [--only TEXT] [--rounds 8] [--rows FILE] [--json FILE] [--dry]

Each kernel of three_languages/ takes the path of a submitted candidate: the evaluator's rules, its compiler,
every case on every kind of input, the holdout case; then its race, call by call beside the other two, eager
and torch.compile, with some timed outputs judged. All is compiled ahead and problems are judged side by side;
races come after that, one at a time, with nothing else on the device. A ratio is another side's time over the
kernel's. With --rows, what is finished is kept, a line each, and the same command goes on from there. `--dry`
needs no GPU: it compiles everything for sm_90a and runs the ragged cases on the CPU (on_cpu.py). The exit
code is 1 where a kernel is refused.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from attrs import define, field, frozen
from provenance import shown_command
from three_languages import LANGUAGES, PROBLEMS, candidate_of, spec_of

from kevolve_core.api.parts import Place, place
from kevolve_core.bench.environment import environment
from kevolve_core.errors import KevolveError
from kevolve_core.evaluate import LocalExecutor
from kevolve_core.evaluate.race import RejectedError, Rounds, measure, measurement
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.evaluate.session import Contender
from kevolve_core.evaluate.trial import Plan
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evaluation, Measurement, content_hash
from kevolve_core.registry import Registry
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only
from kevolve_nvidia.settings import Settings

JUDGED = ("rules", "compile", "small", "cases", "holdout")
_INLINE_PTX = re.compile(r"\basm\s*(volatile\s*)?\(|\binline_asm_elementwise\(|\binline_ptx\(")
_ROOT = Path(__file__).parent.parent
_FLOOR_SHARE = 0.8  # of the floor, under which the evaluator believes no time
_RACE_S = 4.0  # of one race; no further round starts after that
_FINE = ("accepted", "right_on_cpu", "compiled")
Row = dict[str, Any]


@frozen
class Entry:
    """One kernel, and what it compiled to on the timed case, or why not."""

    spec: KernelSpec
    language: str
    candidate: Candidate
    built: Artifact | None = None
    refused: str = ""

    def row(self) -> Row:
        facts = self.built.facts if self.built else {}
        text = "\n".join(self.candidate.files.values())
        return {
            "problem": self.spec.name, "language": self.language,
            "inline_ptx": bool(_INLINE_PTX.search(text)),
            **{name: facts.get(name) for name in ("registers", "spill_bytes", "occupancy")},
        }  # fmt: skip


@define
class OneCompiler:
    """The backend, with one compiler and its workers for all problems."""

    inner: Any
    compiled_by: NvidiaCompiler

    def compiler(self, device: Device) -> NvidiaCompiler:
        del device
        return self.compiled_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@define
class Kept:
    """Finished rows by key, a line each in a file."""

    file: Path | None
    rows: dict[str, Row] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            lines = [json.loads(line) for line in self.file.read_text().splitlines()]
            self.rows = {row["key"]: row for row in lines}

    def keep(self, row: Row) -> None:
        self.rows[row["key"]] = row
        if self.file is not None:
            with self.file.open("a") as out:
                out.write(json.dumps(row) + "\n")


def entries_of(problems: Sequence[str], compiler: NvidiaCompiler) -> list[Entry]:
    """Every kernel, compiled for every case, in parallel."""
    jobs = [(spec_of(p), language) for p in problems for language in LANGUAGES]

    def build(job: tuple[KernelSpec, str]) -> Entry:
        spec, language = job
        candidate = candidate_of(spec.name, language)
        if broken := check_candidate(candidate):
            return Entry(spec, language, candidate, refused=str(broken[0]))
        built: Artifact | None = None
        try:
            for case in reversed(spec.cases):  # the timed one is the first, and its facts are shown
                built = compiler.compile(candidate, spec, case, compiler.device.target)
        except KevolveError as error:
            log = str(getattr(error, "log", "")).strip()
            return Entry(spec, language, candidate, refused=f"{error} {log}"[:2000])
        return Entry(spec, language, candidate, built)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(build, jobs))


@define
class Judge:
    """The evaluator of one problem: its processes stay from the judgement to the race."""

    entries: Sequence[Entry]
    executor: LocalExecutor
    rounds: int
    found: dict[str, Evaluation] = field(factory=dict)
    failed: str = ""

    def judge(self) -> None:
        """All correctness stages of the kernels; what is right is loaded for the race. A fault of the
        installation is kept as `failed`."""
        warming = Thread(target=self.executor.warm_up, daemon=True)  # it compiles the baselines
        warming.start()
        try:
            self.executor.check_spec()
            asked = {e.language: self._ask(e, JUDGED) for e in self.entries}
            self.found = {language: future.result() for language, future in asked.items()}
            self._sides()
        except KevolveError as error:
            self.failed = str(error)
        warming.join()

    def _ask(self, entry: Entry, stages: tuple[str, ...]) -> Any:
        request = EvaluationRequest(entry.spec, entry.candidate, stages, self.executor.secret)
        return self.executor.submit(request)

    def _sides(self) -> list[Contender]:
        """The kernels that were found right, each in a process of its own."""
        session, case = self.executor._session, self.entries[0].spec.timed_cases[0]
        return [
            session.candidate(e.candidate, e.built, case, lane=f"race-{e.language}", name=e.language)
            for e in self.entries
            if e.built is not None and self.found[e.language].accepted
        ]

    def rows(self) -> list[Row]:
        """A row a kernel: its verdict, and the race of those that are right."""
        if self.failed:
            return [e.row() | {"verdict": "not_judged", "reason": self.failed[:2000]} for e in self.entries]
        try:
            raced = self._race()
        except (KevolveError, RejectedError) as error:  # whose fault it is, each one's own race will say
            print(f"{self.entries[0].spec.name}: one by one, since {error}", flush=True)
            raced = {}
        return [e.row() | self._verdict(e, raced.get(e.language)) for e in self.entries]

    def _race(self) -> dict[str, Measurement]:
        """All right kernels and the baselines in the same rounds, by language."""
        session, case = self.executor._session, self.entries[0].spec.timed_cases[0]
        sides = self._sides()
        baselines = [b for which in session.baselines() if (b := session.baseline(which, case)) is not None]
        seed, rounds = self.executor.secret, Rounds(self.rounds, 2, _RACE_S)
        samples = measure(session, case, sides, baselines, rounds, seed=seed, witness=session.eager(case))
        profiler = session.backend.profiler(session.device)
        floor = profiler.floor(session.work(case)) if profiler is not None else 0.0
        found = {s.name: measurement(samples, s.name, case.name, session, "race", floor, seed) for s in sides}
        return {name: m for name, m in found.items() if median(m.candidate) >= _FLOOR_SHARE * floor}

    def _verdict(self, entry: Entry, raced: Measurement | None) -> Row:
        evaluation = self.found[entry.language]
        if evaluation.accepted and raced is None:
            try:
                evaluation = self._ask(entry, ("race",)).result()
            except KevolveError as error:
                return {"verdict": "not_judged", "reason": str(error)[:2000]}
            raced = evaluation.measurements[-1] if evaluation.accepted else None
        verdict = evaluation.verdict
        row = {"verdict": verdict.kind.value, "seed": evaluation.seed}
        if raced is None:
            return row | {"stage": verdict.stage, "reason": f"{verdict.reason} {dict(verdict.detail)}"[:2000]}
        return row | timed(raced)


def timed(m: Measurement) -> Row:
    """Microseconds and paired ratios of a race."""
    ratios = {name: {"ratio": r.value, "interval": [r.low, r.high]} for name, r in m.ratios.items()}
    return {
        "us": round(1e6 * median(m.candidate), 2),
        "baselines_us": {name: round(1e6 * median(v), 2) for name, v in m.baselines.items()},
        "ratios": ratios, "rounds": len(m.candidate), "evidence": m.evidence.value,
        "floor_us": round(1e6 * m.floor_seconds, 2),
    }  # fmt: skip


def judged_rows(where: Place, entries: Sequence[Entry], options: argparse.Namespace, kept: Kept) -> list[Row]:
    """The rows of all kernels, in order; those in ``kept`` are taken from there."""
    versions = [_version(n) for n in ("torch", "triton", "nvidia-cutlass-dsl")]
    keys = {
        id(e): content_hash([e.spec.fingerprint, e.candidate.id, where.device.name, *versions])[:16]
        for e in entries
    }
    problems = [list(own) for _, own in itertools.groupby(entries, lambda e: e.spec.name)]
    todo = [own for own in problems if any(keys[id(e)] not in kept.rows for e in own)]
    for own in problems:
        if own not in todo:
            for entry in own:
                show(kept.rows[keys[id(entry)]])
    ref = where.registry.ref(where.backend_name)
    plan = Plan(race_rounds=options.rounds, race_seconds=_RACE_S)
    for start in range(0, len(todo), options.at_once):
        judges = [
            Judge(
                own, LocalExecutor(ref, where.backend, where.device, own[0].spec, plan=plan), options.rounds
            )
            for own in todo[start : start + options.at_once]
        ]
        try:
            with ThreadPoolExecutor(len(judges)) as pool:
                list(pool.map(Judge.judge, judges))
            for judge in judges:
                for entry, row in zip(judge.entries, judge.rows(), strict=True):
                    kept.keep({"key": keys[id(entry)], **row})
                    show(row)
                judge.executor.close()
        finally:
            for judge in judges:
                judge.executor.close()
    return [kept.rows[keys[id(e)]] for e in entries]


def dry_rows(entries: Sequence[Entry], only: str) -> list[Row]:
    """What can be said without a GPU: whether it compiles, and whether it is right on the CPU."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.three_languages.on_cpu"]

    def run(language: str) -> subprocess.CompletedProcess[str]:
        asked = [*command, language, "--cases", "ragged", "--only", only]
        return subprocess.run(asked, capture_output=True, text=True, cwd=_ROOT, check=False)

    with ThreadPoolExecutor(len(LANGUAGES)) as pool:
        done = list(pool.map(run, LANGUAGES))
    lines = [json.loads(line) for d in done for line in d.stdout.splitlines()]
    said = {(r["problem"], r["language"]): r["wrong"] for r in lines}
    faults = "".join(d.stderr for d in done if d.returncode)
    rows = []
    for entry in entries:
        row = entry.row()
        if entry.refused:
            row |= {"verdict": "compile_error", "reason": entry.refused}
        elif entry.language == "cute" and entry.spec.name.startswith("matmul"):
            row |= {"verdict": "compiled"}
        elif wrong := said.get((entry.spec.name, entry.language), faults or "it was not run"):
            row |= {"verdict": "wrong_result", "reason": wrong[:2000]}
        else:
            row |= {"verdict": "right_on_cpu"}
        show(row)
        rows.append(row)
    return rows


def show(row: Row) -> None:
    line = f"{row['problem']:<18}{row['language']:<8}{row['verdict']:<14}"
    if "us" in row:
        ratios = {name: r["ratio"] for name, r in row["ratios"].items()}
        line += f"{row['us']:>9.1f} us" + "".join(f"  {r:>5.2f} x {n}" for n, r in sorted(ratios.items()))
    line += f"  {row['registers']} registers, {row['spill_bytes']} bytes spilled"
    line += "  inline PTX" if row["inline_ptx"] else ""
    print(line + (f"\n    {row['reason']}" if row.get("reason") else ""), flush=True)


def side_by_side(rows: Sequence[Row]) -> None:
    """A line a problem: times of the three languages and of the baselines, in microseconds."""
    print(f"\n{'problem':<18}" + "".join(f"{n:>10}" for n in LANGUAGES) + f"{'eager':>10}{'compile':>10}")
    for problem in dict.fromkeys(r["problem"] for r in rows):
        own = {r["language"]: r for r in rows if r["problem"] == problem}
        cells = [f"{own[n]['us']:.1f}" if "us" in own[n] else own[n]["verdict"][:9] for n in LANGUAGES]
        for name in ("eager", "torch.compile"):
            found = [r["baselines_us"][name] for r in own.values() if name in r.get("baselines_us", {})]
            cells.append(f"{median(found):.1f}" if found else "-")
        print(f"{problem:<18}" + "".join(f"{c:>10}" for c in cells), flush=True)


def summary_of(rows: Sequence[Row], device: Device, seconds: float) -> dict[str, Any]:
    """Counts, and the geometric means of ratios by language and baseline."""
    ratios: dict[str, dict[str, float]] = {}
    for language in LANGUAGES:
        for name in ("eager", "torch.compile"):
            own = [r["ratios"][name]["ratio"] for r in rows
                   if r["language"] == language and name in r.get("ratios", {})]  # fmt: skip
            if own:
                mean = math.exp(sum(map(math.log, own)) / len(own))
                ratios.setdefault(language, {})[name] = round(mean, 3)
    packages = ("nvidia-cutlass-dsl", "cuda-bindings", "nvidia-cuda-nvrtc")
    more = {p: v for p in packages if (v := _version(p))}
    return {
        "correct": sum(r["verdict"] == "accepted" for r in rows),
        "total": len(rows),
        "by_language": dict(Counter(r["language"] for r in rows if r["verdict"] == "accepted")),
        "inline_ptx": [f"{r['problem']}/{r['language']}" for r in rows if r["inline_ptx"]],
        "geomean": ratios,
        "seconds": round(seconds, 1),
        "command": shown_command("h100_three_languages.py", sys.argv[1:]),
        "environment": environment(device.name, more),
    }  # fmt: skip


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _here() -> Place:
    """This machine's first GPU; the backend need not be installed."""
    registry = Registry()
    registry.register(importlib.import_module("kevolve_nvidia.plugin"), name="nvidia")
    try:
        found = place(None, "nvidia", registry=registry)
    except KevolveError as error:
        raise SystemExit(f"h100_three_languages: --dry needs no GPU; {error}") from error
    if "run" not in found.device.capabilities:
        raise SystemExit("h100_three_languages: there is no NVIDIA GPU here; --dry compiles without one")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--rounds", type=int, default=8, help="of each race")
    parser.add_argument("--at-once", type=int, default=max(2, 3 * len(os.sched_getaffinity(0)) // 8),
                        help="problems judged side by side")  # fmt: skip
    parser.add_argument("--rows", type=Path, help="file of finished rows, to go on from")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true", help="compile, and run on the CPU")
    options = parser.parse_args()
    begun = time.monotonic()
    where = None if options.dry else _here()
    device = compile_only("sm_90a") if where is None else where.device
    settings = Settings() if where is None else where.backend.settings  # type: ignore[attr-defined]
    compiler = NvidiaCompiler(settings, device)
    try:
        entries = entries_of([p for p in PROBLEMS if options.only in p], compiler)
        print(f"compiled in {time.monotonic() - begun:.0f} s", flush=True)
        if where is None:
            rows = dry_rows(entries, options.only)
        else:
            one = OneCompiler(where.backend, compiler)
            shared = Place(where.registry, where.backend_name, one, device)  # type: ignore[arg-type]
            rows = judged_rows(shared, entries, options, Kept(options.rows))
            side_by_side(rows)
    finally:
        compiler.close()
    summary = summary_of(rows, device, time.monotonic() - begun)
    verdicts = ", ".join(f"{n} {kind}" for kind, n in Counter(r["verdict"] for r in rows).items())
    print(f"\n{verdicts}; {summary['seconds']} s; geomean {summary['geomean']}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")
    return int(any(r["verdict"] not in _FINE for r in rows))


if __name__ == "__main__":
    sys.exit(main())
