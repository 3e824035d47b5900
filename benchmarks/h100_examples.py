"""Every example evolved on an NVIDIA GPU: eager, torch.compile and the best kernel, timed in one run.

    python benchmarks/h100_examples.py [--budget 30s] [--seed 0] [--only NAME] [--out DIR] [--json FILE]

Each row is the confirmation of one run: fresh processes, all sides interleaved call by call on fresh data,
L2 flushed, launches queued ahead of the device for every side, times by CUDA events. Times are those of the
first timed case, in microseconds. `ratio` is the better of eager and torch.compile over the kernel on all
timed cases, with the 95 % bootstrap interval of the paired ratio. Where the search found nothing better, the
kernel is the baseline, the ratio is 1 and the row says so. `copy` is compulsory bytes over the kernel's time
as a share of this GPU's measured copy bandwidth. A run that is there under --out is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

import kevolve_core
from kevolve_core.api import Result
from kevolve_core.bench.environment import commit
from kevolve_nvidia.facts import found_devices
from kevolve_nvidia.peaks import Peaks, measure_peaks
from kevolve_nvidia.settings import Settings

EXAMPLES = Path(__file__).parent.parent / "examples"


def row_of(name: str, result: Result, peaks: Peaks) -> dict[str, Any]:
    """The figures of one run, from its confirmation (or from the latest timing of what came closest)."""
    case = result.spec.timed_cases[0]
    m = result.measurements.get(case.name)
    if m is None:
        return {"example": name, "improved": False, "reason": result.reason}
    sides = {n: median(v) for n, v in m.baselines.items()}
    ratio = result.speedup
    profile = result.evaluation.profile if result.evaluation else None
    roofline = profile.roofline if profile else None
    seconds = median(m.candidate)
    return {
        "example": name,
        "case": case.name,
        "phase": m.phase,
        "evidence": m.evidence.value,
        "eager_us": 1e6 * sides.get("eager", math.nan),
        "compile_us": 1e6 * sides.get("torch.compile", math.nan),
        "kernel_us": 1e6 * seconds,
        "ratio": ratio.value if result.improved and ratio else 1.0,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
        "improved": result.improved,
        "bottleneck": profile.bottleneck if profile else "",
        "hints": list(profile.hints) if profile else [],
        "copy_share": roofline.bytes / seconds / peaks.copy_bytes_per_s if roofline else None,
        "library_calls": list(result.evaluation.library_calls) if result.evaluation else [],
        "evaluations": result.search.evaluations,
        "failures": dict(result.search.counts),
        "seconds": result.search.seconds,
        "reason": result.reason,
    }


def show(rows: list[dict[str, Any]]) -> None:
    heads = f"{'example':<18}{'eager':>9}{'compile':>9}{'kernel':>9}  {'ratio':>6} {'interval':<14}"
    print(f"{heads}{'copy':>7}{'tried':>7}", flush=True)
    for r in rows:
        if "kernel_us" not in r:
            print(f"{r['example']:<18}{r['reason']}")
            continue
        interval = f"[{r['low']:.2f}, {r['high']:.2f}]" if r["low"] else ""
        share = f"{100 * r['copy_share']:.0f} %" if r["copy_share"] else ""
        print(f"{r['example']:<18}{r['eager_us']:>9.1f}{r['compile_us']:>9.1f}{r['kernel_us']:>9.1f}"
              f"  {r['ratio']:>6.2f} {interval:<14}{share:>7}{r['evaluations']:>7}", flush=True)  # fmt: skip


def summary_of(rows: list[dict[str, Any]], command: str, device: str, peaks: Peaks) -> dict[str, Any]:
    import triton

    ratios = [r["ratio"] for r in rows if "ratio" in r]
    return {
        "geomean": math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None,
        "worst": min(ratios, default=None),
        "correct": len(ratios),
        "total": len(rows),
        "command": command,
        "environment": {
            "device": device,
            "copy_bytes_per_s": peaks.copy_bytes_per_s,
            "matmul_flops_per_s": dict(peaks.matmul_flops_per_s),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": triton.__version__,
            "python": platform.python_version(),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", default="30s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    devices = found_devices(frozenset({"run"}))
    if not devices:
        raise SystemExit("h100_examples: there is no NVIDIA GPU here")
    peaks = measure_peaks(devices[0], Settings())
    out = options.out or Path(tempfile.mkdtemp(prefix="gpu-examples-"))
    rows: list[dict[str, Any]] = []
    command = f"python benchmarks/h100_examples.py --budget {options.budget} --seed {options.seed}"
    for name in options.only or sorted(p.stem for p in EXAMPLES.glob("*.yaml")):
        run = out / name
        try:
            if run.exists():  # resumable: a folder given with --out may hold runs that have ended
                result = kevolve_core.load_result(run)
            else:
                result = kevolve_core.evolve(
                    EXAMPLES / f"{name}.yaml",
                    backend="nvidia",
                    budget=options.budget,
                    seed=options.seed,
                    out=run,
                )
            rows.append(row_of(name, result, peaks))
        except Exception as error:  # one example that fails is a row, not the end of the others
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            rows.append({"example": name, "improved": False, "reason": reason})
        show(rows[-1:])
        if options.json:  # after every row: the machine may be taken away
            summary = summary_of(rows, command, devices[0].name, peaks)
            options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")
    print()
    show(rows)
    summary = summary_of(rows, command, devices[0].name, peaks)
    if summary["geomean"]:
        print(f"\ngeomean {summary['geomean']:.2f}, worst {summary['worst']:.2f}")


if __name__ == "__main__":
    main()
