"""Exported kernels under KernelBench's own evaluator.

    python benchmarks/kernelbench_evaluator.py --evaluator CHECKOUT --out DIR [--level 1,2,3]
        [--problem 2/17]... [--kernels DIR | --backend nvidia] [--trials 5] [--jobs N] [--seconds S]
        [--json FILE] [--dry]

CHECKOUT is a checkout of KernelBench: its problems are read, and its `eval_kernel_against_ref` is imported
and run, in a process a problem. It constructs reference and `ModelNew` from one seed, leaves both in training
mode, and compares at 1e-4 (absolute and relative) on inputs of its own. Files come from --kernels (a sweep's
folder of exports: run it with `--train`), or are made here: the first proposal of --backend for the module in
training mode, at full size. Before a file is tried the reference is tried against itself, TF32 off: where
that fails (it draws random numbers, say), the problem is `unfit` and counts apart. What finds no memory
beside other problems (`memory`) is tried again alone. The evaluator needs a CUDA device; on a machine with
none, --dry runs everything else on the CPU at small sizes. A row is a JSON line in DIR/rows.jsonl as soon as
it is there; what DIR has is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from kevolve_core.bench.problems import Problem, find_problems, spec_of
from kevolve_core.errors import KevolveError

Row = dict[str, Any]
#: Imported by the evaluator's package, and used by none of what is called here.
UNUSED = ("dotenv", "openai", "litellm", "tqdm", "requests", "datasets", "modal", "together", "anthropic")
LIMIT_S = 240  # of one problem
_NO_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "PYTORCH_CUDA_ALLOC_CONF")


def evaluator_of(checkout: Path) -> ModuleType:
    """KernelBench's module of evaluation; packages that only its other parts need may be missing."""
    sys.path.insert(0, str(checkout / "src"))
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock()
    return importlib.import_module("kernelbench.eval")


def first_export(problem: Problem, source: str, backend: str) -> str:
    """The export of the backend's first proposal for the module in training mode."""
    from kevolve_core.api.parts import place
    from kevolve_core.bundle import export, with_reference_weights
    from kevolve_core.interfaces import Proposal
    from kevolve_core.synth import SynthGenerator

    where = place(None, backend)
    spec = spec_of(problem, source, "train")
    generator = SynthGenerator(spec, where.backend.renderers(), where.backend.schedule_space, where.device)
    (candidate, *_) = generator.propose_now(Proposal(spec, where.device, 0, 0), 1)
    text = export(candidate, where.backend.standalone_loader(candidate.language))
    return with_reference_weights(text, spec.reference.source, spec.reference.symbol)


def judged(module: ModuleType, source: str, kernel: str, trials: int, dry: bool) -> tuple[bool, str]:
    """(accepted by the evaluator, its reason where not)."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cpu") if dry else torch.device("cuda", 0)
    if dry:
        torch.cuda.synchronize = torch.cuda.set_device = lambda *_, **__: None  # type: ignore[assignment]
        torch.cuda.is_available = lambda: True  # type: ignore[assignment]
        torch.cuda.get_device_name = lambda *_, **__: "none"
        torch.cuda.manual_seed = lambda _: None  # type: ignore[assignment]
        importlib.import_module("kernelbench.utils").get_gpu_vendor = lambda _: "nvidia"
        module.graceful_eval_cleanup = lambda *_: None  # type: ignore[attr-defined]
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    with contextlib.redirect_stdout(sys.stderr):
        result = module.eval_kernel_against_ref(
            source, kernel, num_correct_trials=trials, device=0 if not dry else device,
            backend="cuda" if dry else "triton",
        )  # fmt: skip
    if result is None:
        return False, "no result"
    return bool(result.correctness), "" if result.correctness else str(result.metadata)[-700:]


def one(options: argparse.Namespace) -> Row:
    """The row of one problem, in a process of its own."""
    begun = time.perf_counter()
    (problem,) = find_problems(options.evaluator, (int(options.one[0]),), (options.one,))
    source = problem.path.read_text(encoding="utf-8")
    if options.dry:
        from kevolve_core.bench.shrink import SCALES, shrunk

        source = shrunk(source, SCALES["small"], str(problem.path))
    row: Row = {"id": problem.id, "name": problem.name}
    if options.kernels:
        file = options.kernels / f"level{problem.level}" / problem.path.name
        if not file.exists():
            return row | {"outcome": "absent"}
        kernel = file.read_text(encoding="utf-8")
    else:
        try:
            kernel = first_export(problem, source, options.backend)
        except KevolveError as error:
            return row | {"outcome": "refused", "reason": f"{type(error).__name__}: {error}"}
    row["proposed_s"] = round(time.perf_counter() - begun, 2)
    module = evaluator_of(options.evaluator)
    itself = source + "\n\nclass ModelNew(Model):\n    pass\n"
    fit, reason = judged(module, source, itself, options.trials, options.dry)
    if not fit:
        return row | {"outcome": _refused("unfit", reason), "reason": reason}
    accepted, reason = judged(module, source, kernel, options.trials, options.dry)
    row["wall_s"] = round(time.perf_counter() - begun, 2)
    return row | {"outcome": "accepted" if accepted else _refused("wrong", reason), "reason": reason}


def _refused(outcome: str, reason: str) -> str:
    """``outcome``, or ``memory`` where there was none left beside other problems."""
    return "memory" if any(words in reason for words in _NO_MEMORY) else outcome


def spawned(problem: Problem) -> Row:
    """`one` in a process, whatever becomes of it."""
    mine = [sys.executable, __file__, *sys.argv[1:], "--one", problem.id]
    row: Row = {"id": problem.id, "name": problem.name}
    try:
        done = subprocess.run(mine, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return row | {"outcome": "failed", "reason": f"took more than {LIMIT_S} s"}
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    if done.returncode or not lines:
        return row | {"outcome": "failed", "reason": done.stderr.strip()[-700:]}
    return dict(json.loads(lines[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evaluator", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", default="1,2,3")
    parser.add_argument("--problem", action="append", default=[])
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--backend", default="nvidia")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no problem after this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true", help="on the CPU, at small sizes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options)))
        return 0
    try:
        levels = tuple(int(n) for n in options.level.split(","))
        problems = find_problems(options.evaluator, levels, options.problem)
    except (KevolveError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    path, begun = options.out / "rows.jsonl", time.monotonic()
    rows = {r["id"]: r for r in map(json.loads, path.read_text().splitlines())} if path.exists() else {}

    def work(problem: Problem) -> None:
        known = rows.get(problem.id)
        if known is not None and known["outcome"] != "memory":
            return
        if time.monotonic() - begun > options.seconds:
            return
        rows[problem.id] = row = spawned(problem)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{row['id']:<6}{row['name'][:44]:<46}{row['outcome']:<10}{row.get('reason', '')[-90:]!r}",
            flush=True,
        )

    for jobs in (options.jobs, 1):  # what found no memory beside others has the device for itself
        with ThreadPoolExecutor(jobs) as threads:
            list(threads.map(work, problems))
    found = [rows[p.id] for p in problems if p.id in rows]
    counts = {o: sum(r["outcome"] == o for r in found) for o in sorted({r["outcome"] for r in found})}
    print(f"{len(found)} of {len(problems)} problems: " + ", ".join(f"{n} {o}" for o, n in counts.items()))
    if options.json:
        from kevolve_core.report import environment

        summary = {"outcomes": counts, "total": len(problems), "environment": environment()}
        options.json.write_text(json.dumps({"rows": found, "summary": summary}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
