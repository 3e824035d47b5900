"""One user, one afternoon: an operator of their own, with their Triton kernel as seed and as baseline.

    python benchmarks/own_kernel.py [--backend nvidia] [--plugin MODULE] [--rows 8192] [--width 4096]
                                    [--budget 120s] [--out DIR] [--json FILE]

Everything the user writes is between the two marks below, and their kernel, in own_kernel/. The result is
checked against the reference in float64 and timed beside eager, torch.compile and the user's kernel, call by
call in fresh processes. `ratio` is the better of all three over what is delivered: the user's kernel where
nothing better is found, and then 1. The exit code is 1 if what is delivered is slower than their kernel.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from kevolve_core.api import Result
from kevolve_core.registry import Registry
from kevolve_core.report import environment

HERE = Path(__file__).parent / "own_kernel"


def evolved(options: argparse.Namespace, registry: Registry | None) -> Result:
    sys.path.insert(0, str(HERE))
    # --- what the user writes ---
    import torch
    from reference import gated_residual_norm

    import kevolve_core

    rows, width = options.rows, options.width
    inputs = [torch.randn(rows, width) for _ in range(3)] + [torch.randn(width)]
    return kevolve_core.evolve(
        gated_residual_norm, example_inputs=inputs, backend=options.backend,
        seed_kernels=[HERE / "kernel.py"], budget=options.budget, out=options.out, registry=registry,
    )  # fmt: skip
    # --- until here ---


def row_of(result: Result, seconds: float) -> dict[str, Any]:
    m = result.measurement
    row: dict[str, Any] = {
        "improved": result.improved, "reason": result.reason,
        "evidence": result.evidence and result.evidence.value,
        "evaluations": result.search.evaluations, "verdicts": dict(result.search.counts), "seconds": seconds,
        "ratio": result.speedup.value if result.improved and result.speedup else 1.0,
        "interval": [result.speedup.low, result.speedup.high] if result.speedup else None,
    }  # fmt: skip
    if m is not None and m.candidate:
        row["us"] = {name: 1e6 * median(v) for name, v in m.baselines.items()}
        row["us"]["candidate"] = 1e6 * median(m.candidate)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="nvidia")
    parser.add_argument("--plugin", help="module of a plugin that is not installed")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--budget", default="120s")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    registry = None
    if options.plugin:
        registry = Registry()
        registry.register(importlib.import_module(options.plugin), name=options.plugin)
    begun = time.monotonic()
    result = evolved(options, registry)
    row = row_of(result, round(time.monotonic() - begun, 1))
    for name, us in sorted(row.get("us", {}).items(), key=lambda item: item[1]):
        print(f"{name:<24}{us:>10.1f} us")
    print(f"ratio {row['ratio']:.3f} {row['interval']}, {row['evaluations']} evaluations in "
          f"{row['seconds']} s; "
          f"{row['reason']}")  # fmt: skip
    if options.json:
        made_on = environment(["triton"]) | {"device": result.device.name}
        options.json.write_text(json.dumps({"row": row, "environment": made_on}, indent=1) + "\n")
    own = [
        us for name, us in row.get("us", {}).items() if name not in ("eager", "torch.compile", "candidate")
    ]
    return int(result.improved and bool(own) and row["us"]["candidate"] > min(own))


if __name__ == "__main__":
    sys.exit(main())
