"""Every example evolved on this machine's CPU: eager, torch.compile and the best kernel, timed in one run.

    python benchmarks/cpu_examples.py [--budget 90s] [--seed 0] [--only NAME] [--out DIR] [--json FILE]

Each row is the confirmation of one run: fresh processes, all sides interleaved call by call on fresh data
with new output storage for every call, caches flushed, one allocator setting for every side. Times are those
of the first timed case. `ratio` is the better of eager and torch.compile over the kernel on all timed cases,
with the 95 % bootstrap interval of the paired ratio. Where the search found nothing better, the kernel is the
baseline, the ratio is 1 and the row says so. `NT copy` is compulsory bytes over the kernel's time as a share
of this host's best memory rate, its non-temporal copy. A run that is there under --out is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

import kevolve_core
from kevolve_core.api import Result

EXAMPLES = Path(__file__).parent.parent / "examples"


def row_of(name: str, result: Result) -> dict[str, Any]:
    """The figures of one run, from its confirmation (or from the latest timing of what came closest)."""
    case = result.spec.timed_cases[0]
    m = result.measurements.get(case.name)
    if m is None:
        return {"example": name, "improved": False, "reason": result.reason}
    sides = {n: median(v) for n, v in m.baselines.items()}
    ratio = result.speedup
    profile = result.evaluation.profile if result.evaluation else None
    counters = dict(profile.counters) if profile else {}
    return {
        "example": name,
        "case": case.name,
        "phase": m.phase,
        "evidence": m.evidence.value,
        "eager_ms": 1e3 * sides.get("eager", math.nan),
        "compile_ms": 1e3 * sides.get("torch.compile", math.nan),
        "kernel_ms": 1e3 * median(m.candidate),
        "ratio": ratio.value if result.improved and ratio else 1.0,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "improved": result.improved,
        "bottleneck": profile.bottleneck if profile else "",
        "bandwidth": counters.get("memory_fraction"),
        "library_calls": list(result.evaluation.library_calls) if result.evaluation else [],
        "evaluations": result.search.evaluations,
        "failures": dict(result.search.counts),
        "seconds": result.search.seconds,
        "reason": result.reason,
    }


def show(rows: list[dict[str, Any]]) -> None:
    heads = f"{'example':<18}{'eager':>9}{'compile':>9}{'kernel':>9}  {'ratio':>6} {'interval':<14}"
    print(f"{heads}{'NT copy':>8}{'tried':>7}")
    for r in rows:
        if "kernel_ms" not in r:
            print(f"{r['example']:<18}{r['reason']}")
            continue
        interval = f"[{r['low']:.2f}, {r['high']:.2f}]" if r["low"] else ""
        share = f"{100 * r['bandwidth']:.0f} %" if r["bandwidth"] else ""
        print(f"{r['example']:<18}{r['eager_ms']:>9.2f}{r['compile_ms']:>9.2f}{r['kernel_ms']:>9.2f}"
              f"  {r['ratio']:>6.2f} {interval:<14}{share:>8}{r['evaluations']:>7}")  # fmt: skip


def summary_of(rows: list[dict[str, Any]], command: str) -> dict[str, Any]:
    ratios = [r["ratio"] for r in rows if "ratio" in r]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=EXAMPLES, check=False
    ).stdout.strip()
    return {
        "geomean": math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None,
        "worst": min(ratios, default=None),
        "correct": len(ratios),
        "total": len(rows),
        "command": command,
        "environment": {
            "device": _processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit,
        },
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", default="90s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="cpu-examples-"))
    rows: list[dict[str, Any]] = []
    names = options.only or sorted(p.stem for p in EXAMPLES.glob("*.yaml"))
    for name in names:
        run = out / name
        if run.exists():  # resumable: a folder given with --out may hold runs that have ended
            result = kevolve_core.load_result(run)
        else:
            result = kevolve_core.evolve(
                EXAMPLES / f"{name}.yaml", backend="cpu", budget=options.budget, seed=options.seed, out=run
            )
        rows.append(row_of(name, result))
        show(rows[-1:])
    print()
    show(rows)
    command = f"python benchmarks/cpu_examples.py --budget {options.budget} --seed {options.seed}"
    summary = summary_of(rows, command)
    print(f"\ngeomean {summary['geomean']:.2f}, worst {summary['worst']:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
