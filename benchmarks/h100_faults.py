"""Kernels that break a GPU process, one verdict each: how long each costs, and that the run goes on.

    python benchmarks/h100_faults.py [--json FILE]

An illegal access, a trap, a read past an input's end, an endless kernel, an out-of-memory and a device
assert, evaluated one after the other in one session; a correct kernel before and after them.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kevolve_core.evaluate import LocalExecutor
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate
from kevolve_core.registry import Registry
from kevolve_nvidia import plugin

N = 1 << 20
SPEC = KernelSpec(
    "add",
    Reference("def add(x, y):\n    return x + y\n", "add"),
    (Case("main", (InputSpec("x", (N,)), InputSpec("y", (N,)))),),
)
STAGES = ("rules", "compile", "small", "cases", "quick")
HOST = """
import torch
from kevolve_core.native import load_native

k = load_native("add.cu", {"add": "pppi"})


def add(x, y):
    out = torch.empty_like(x)
    n = x.numel()
    k.add(x.data_ptr(), y.data_ptr(), out.data_ptr(), n, grid=(n + 255) // 256, block=256)
    return out
"""
KERNEL = """
extern "C" __global__ void add(const float* x, const float* y, float* o, int n) {{
  int i = blockIdx.x * 256 + threadIdx.x;
  {body}
}}
"""
BODIES = {
    "correct": "if (i < n) o[i] = x[i] + y[i];",
    "illegal access": "if (i < n) o[i + (1ll << 40)] = x[i] + y[i];",
    "trap": 'if (i == 0) asm volatile("trap;"); if (i < n) o[i] = x[i] + y[i];',
    "read past the end": "if (i < n) { float t = x[i + 64]; o[i] = x[i] + y[i] + (t == 1e30f ? 1.f : 0.f); }",
    "endless": "volatile int m = n; while (m > 0) __nanosleep(100); if (i < n) o[i] = x[i] + y[i];",
    "correct again": "if (i < n) o[i] = y[i] + x[i];",
}
PYTHON = {
    "out of memory": "    return x + y + torch.zeros(1 << 37, device=x.device)[: x.numel()]",
    "device assert": "    at = torch.full(x.shape, 2 * x.numel(), device=x.device)\n    return x[at] + y",
}


def candidates() -> dict[str, Candidate]:
    made = {
        name: Candidate({"k.py": HOST, "add.cu": KERNEL.format(body=body)}, "k.py", "cuda")
        for name, body in BODIES.items()
    }
    last = {"correct again": made.pop("correct again")}
    for name, body in PYTHON.items():
        made[name] = Candidate({"k.py": f"import torch\n\n\ndef add(x, y):\n{body}\n"}, "k.py", "python")
    return made | last


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    registry = Registry()
    registry.register(plugin, name="nvidia")
    devices = [d for d in registry.devices("nvidia") if "run" in d.capabilities]
    if not devices:
        raise SystemExit("h100_faults: there is no NVIDIA GPU here")
    executor = LocalExecutor(registry.ref("nvidia"), registry.backend("nvidia"), devices[0], SPEC)
    rows: list[dict[str, Any]] = []
    try:
        executor.warm_up()
        for name, candidate in candidates().items():
            start = time.perf_counter()
            found = executor.submit(EvaluationRequest(SPEC, candidate, STAGES)).result(timeout=120)
            row = {
                "kernel": name,
                "verdict": found.verdict.kind.value,
                "seconds": time.perf_counter() - start,
                "reason": found.verdict.reason,
                "stages": {s.stage: s.seconds for s in found.stages},
            }
            rows.append(row)
            print(f"{name:<20}{row['verdict']:<16}{row['seconds']:>7.1f} s  {row['reason'][:70]}", flush=True)
    finally:
        executor.close()
    broken = [r for r in rows if not r["kernel"].startswith("correct")]
    summary = {
        "slowest_s": max(r["seconds"] for r in broken),
        "correct": sum(r["verdict"] != "accepted" for r in broken),
        "total": len(broken),
        "goes_on": rows[-1]["verdict"] == "accepted",
        "command": "python benchmarks/h100_faults.py",
        "environment": {
            "device": devices[0].name,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "date": datetime.now(UTC).date().isoformat(),
        },
    }
    print(f"slowest {summary['slowest_s']:.1f} s, the run goes on: {summary['goes_on']}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
