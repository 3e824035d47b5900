"""`run_kernelbench`: problems through synthesis and, unless only checked, a search; a row each, resumable."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, field, frozen

from kevolve_core.api.evolving import evolve, resume
from kevolve_core.api.parts import Place, place
from kevolve_core.bench.cores import apart, without
from kevolve_core.bench.environment import environment
from kevolve_core.bench.pipeline import Pipeline, workers
from kevolve_core.bench.pool import SWEEP_ROLE, Checker, over
from kevolve_core.bench.problems import Problem, find_problems, spec_of
from kevolve_core.errors import ConfigError, KevolveError, StoreError, WorkerError, suggest
from kevolve_core.isolate.process import RemoteError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.registry import Registry
from kevolve_core.serial import to_plain

__all__ = ["ENVIRONMENT", "BenchSettings", "Row", "read_rows", "run_kernelbench"]

Row = dict[str, Any]
#: Scales of `kevolve_core.bench.shrink.SCALES`, named here so that the command line need not import torch.
SCALE_NAMES = ("tiny", "small", "full")
_DRAFTS = 3  # judged at most where nothing is timed
_ROWS, _SETTINGS = "rows.jsonl", "settings.json"
#: File of the folder with the latest sitting's device, versions, commit and date.
ENVIRONMENT = "environment.json"


@frozen
class BenchSettings:
    """What is run. Rows of one folder all come from one of these.

    Args:
        root: the checkout.
        levels: of problems.
        scale: ``tiny``, ``small`` or ``full`` (see `SCALES`).
        check_only: correctness of the first drafts only, nothing is timed.
        sweep: candidates a problem through the pipeline (see `kevolve_core.bench.pipeline`) in place of a
            search; 0 for none.
        budget: of the search on one problem, as `evolve` takes it.
        language: of the candidates in ``check_only``; "" for the generator's own choice.
        only: problems by id (``1/23``); all of the levels where empty.
        seed: of weights and of the search.
        train: modules in training mode, as KernelBench's own evaluator runs them (it never calls ``eval``):
            batch statistics in batch norm, dropout where there is any.
    """

    root: str
    levels: tuple[int, ...] = (1, 2, 3)
    scale: str = "small"
    check_only: bool = False
    sweep: int = 0
    budget: str = "20s"
    language: str = ""
    only: tuple[str, ...] = ()
    seed: int = 0
    backend: str = field(default="")
    train: bool = False

    def identity(self) -> Mapping[str, Any]:
        """What rows must agree on to stand in one file: all but which problems are run."""
        plain = asdict(self)
        for key in ("root", "levels", "only"):
            del plain[key]
        unused = {"sweep"} if not self.sweep else {"budget"}
        if not self.train:
            unused.add("train")
        return {
            k: v for k, v in plain.items() if k not in unused | ({"budget"} if self.check_only else set())
        }


def read_rows(out: Path) -> list[Row]:
    """The rows a folder has, the latest of each problem, in the order of problems. A torn last line (the
    process was killed while it wrote) is left out."""
    latest: dict[str, Row] = {}
    path = out / _ROWS
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            latest[row["id"]] = row
    return sorted(latest.values(), key=lambda r: tuple(int(n) for n in r["id"].split("/")))


def run_kernelbench(
    settings: BenchSettings,
    out: Path,
    *,
    registry: Registry | None = None,
    device: str | None = None,
    jobs: int = 0,
    on_row: Callable[[Row, int, int], None] | None = None,
) -> list[Row]:
    """A row for every problem; those that ``out`` has already are not run again.

    Args:
        settings: what to run.
        out: folder of the rows, and of the runs of searches.
        registry, device: as for `evolve`.
        jobs: checking or sweeping processes; 0 is one a core, or what the pipeline takes.
        on_row: called with each new row, how many are done, and of how many.

    Raises:
        KevolveError: no such checkout or backend, or ``out`` has rows of other settings.
    """
    if settings.scale not in SCALE_NAMES:
        raise ConfigError(
            "there is no such scale", got=settings.scale, mend=suggest(settings.scale, SCALE_NAMES) or
            f"one of {', '.join(SCALE_NAMES)}",
        )  # fmt: skip
    problems = find_problems(settings.root, settings.levels, settings.only)
    where = place(None, settings.backend or None, registry=registry, device=device)
    _claim(out, settings)
    (out / ENVIRONMENT).write_text(json.dumps(environment(where.device.name), indent=1), encoding="utf-8")
    done = {r["id"] for r in read_rows(out)}
    todo = [p for p in problems if p.id not in done]
    lock = threading.Lock()
    finished = len(problems) - len(todo)

    def note(row: Row) -> None:
        nonlocal finished
        with lock, open(out / _ROWS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            finished += 1
            if on_row is not None:
                on_row(row, finished, len(problems))

    pipeline: Pipeline | None = None

    def work(problem: Problem, checker: Checker) -> None:
        row = _row(problem, checker, settings, where, out, pipeline)
        if not checker.closed:  # stopped meanwhile: what that did to the problem is no result
            note(row)

    if settings.sweep:
        count = min(jobs or workers(where), max(1, len(todo)))
        cores = () if where.device.shares_host else apart()
        with without(cores):
            pipeline = Pipeline(where, settings.sweep, settings.seed, out, cores)
            try:
                over(
                    todo, work, where, language=settings.language, jobs=count, role=SWEEP_ROLE,
                    on_stop=pipeline.stop,
                )  # fmt: skip
            finally:
                pipeline.close()
    else:
        count = min(jobs, len(todo)) if settings.check_only else 1
        over(todo, work, where, language=settings.language, jobs=count)
    wanted = {p.id for p in problems}
    return [r for r in read_rows(out) if r["id"] in wanted]


def _claim(out: Path, settings: BenchSettings) -> None:
    """Make ``out`` and note the settings of its rows, or see that they are these."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = out / _SETTINGS
        mine = json.loads(json.dumps(settings.identity()))
        if path.exists():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            if theirs != mine:
                different = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
                raise ConfigError(
                    "this folder has rows of other settings",
                    got=", ".join(f"{k}: {theirs.get(k)!r} there, {mine.get(k)!r} now" for k in different),
                    where=str(out),
                    mend="choose another --out, or the settings it was begun with",
                )
        else:
            path.write_text(json.dumps(mine, indent=1), encoding="utf-8")
    except OSError as error:
        raise StoreError("the folder cannot be written", got=error.strerror, where=str(out)) from error


def _row(
    problem: Problem,
    checker: Checker,
    settings: BenchSettings,
    where: Place,
    out: Path,
    pipeline: Pipeline | None,
) -> Row:
    row: Row = {"id": problem.id, "name": problem.name, "degenerate": problem.degenerate}
    try:
        source = problem.path.read_text(encoding="utf-8")
        if settings.scale != "full":
            arguments = {"source": source, "scale": settings.scale, "where": str(problem.path)}
            source = checker.call("shrink", arguments)["source"]
        spec = spec_of(problem, source, "train" if settings.train else "eval")
        if pipeline is not None:
            return row | pipeline.row(problem, spec, checker)
        secret = int.from_bytes(hashlib.sha256(f"{problem.id}/{settings.seed}".encode()).digest()[:6], "big")
        wanted = {"spec": to_plain(spec), "seed": settings.seed, "secret": secret, "drafts": _DRAFTS}
        found = checker.call("check", wanted)
        row.update(found)
        if not settings.check_only:
            row.update(_searched(spec, settings, where, out / "runs" / problem.id.replace("/", "_")))
    except (WorkerError, KevolveError, OSError) as error:
        row.update(correct=False, generated_correct=False, libraries=[], reason=_reason(error))
    return row


def _reason(error: Exception) -> str:
    if isinstance(error, RemoteError):
        return f"{error.what}"
    return f"{getattr(error, 'kind', type(error).__name__)}: {error}"


def _searched(spec: KernelSpec, settings: BenchSettings, where: Place, folder: Path) -> Row:
    """What a search on the problem found: ratio to the better baseline, times, and what was delivered."""
    try:
        if (folder / "run.sqlite").exists():
            result = resume(folder, registry=where.registry)
        else:
            result = evolve(
                spec, backend=where.backend_name, device=where.device.id, budget=settings.budget,
                seed=settings.seed, out=folder, registry=where.registry, allow_degenerate=True,
            )  # fmt: skip
    except KevolveError as error:
        return {"search_reason": f"{type(error).__name__}: {error}"}
    found: Row = {
        "delivered": "candidate" if result.improved else "baseline",
        "ratio": None,
        "search_reason": result.reason,
        "evidence": result.evidence.value if result.evidence else None,
    }
    m = result.measurement
    if m is not None and m.candidate:
        times = {name: median(samples) for name, samples in m.baselines.items()}
        mine = median(m.candidate)
        found |= {
            "candidate_s": mine,
            "baselines_s": times,
            "ratio": result.speedup.value if result.speedup else min(times.values()) / mine,
            "ratio_to": {name: value / mine for name, value in times.items()},
            "candidate_libraries": list(result.evaluation.library_calls) if result.evaluation else [],
        }
    return found
