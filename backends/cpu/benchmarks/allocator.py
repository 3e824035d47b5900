"""What malloc's settings cost a kernel that returns a large tensor: time and page faults a call.

Each setting gets its own processes, settings taken in turn and repeated; a row is the median over all calls.

    python backends/cpu/benchmarks/allocator.py [--json FILE] [--mib 128] [--repeats 3]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from typing import Any

from kevolve_cpu.facts import product_name
from kevolve_cpu.plugin import MANIFEST

_KEEP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
SETTINGS: dict[str, dict[str, str]] = {
    "glibc's defaults": {},
    "large pages": _LARGE_PAGES,
    "heap kept": _KEEP,
    "heap kept, large pages": _KEEP | _LARGE_PAGES,
    "heap kept, large pages, poisoned": _KEEP | _LARGE_PAGES,
}

_CHILD = """
import json, resource, sys, time, torch
mib, poison = int(sys.argv[1]), sys.argv[2] == "1"
x = torch.randn(mib * 32, 8192)
w = torch.randn(8192)
def fill(): return torch.empty_like(x).fill_(1.0)
def rmsnorm(): return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rows = {}
for name, f in (("fill", fill), ("rmsnorm", rmsnorm)):
    rows[name] = []
    for _ in range(10):
        if poison:
            torch.empty((mib << 20) + (1 << 16), dtype=torch.uint8).fill_(255)
        before = faults(); start = time.perf_counter(); y = f()
        rows[name].append([(time.perf_counter() - start) * 1e3, faults() - before]); del y
print(json.dumps(rows))
"""


def measure(mib: int, repeats: int) -> list[dict[str, Any]]:
    """One row a setting and operator: median milliseconds and median faults a call."""
    samples: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for _ in range(repeats):
        for setting, variables in SETTINGS.items():
            poison = "1" if "poisoned" in setting else "0"
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(mib), poison],
                env={**os.environ, "GOMP_SPINCOUNT": "10000", **variables},
                capture_output=True,
                text=True,
                check=True,
            )
            for operator, calls in json.loads(done.stdout).items():
                samples.setdefault((setting, operator), []).extend((ms, n) for ms, n in calls)
    return [
        {
            "setting": setting,
            "operator": operator,
            "median_ms": statistics.median(ms for ms, _ in calls),
            "slowest_ms": max(ms for ms, _ in calls),
            "median_faults": statistics.median(n for _, n in calls),
            "calls": len(calls),
        }
        for (setting, operator), calls in samples.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = measure(arguments.mib, arguments.repeats)
    print(f"{'setting':34} {'operator':9} {'median ms':>10} {'slowest ms':>11} {'faults':>8}")
    for row in rows:
        print(
            f"{row['setting']:34} {row['operator']:9} {row['median_ms']:10.1f} {row['slowest_ms']:11.1f} "
            f"{row['median_faults']:8.0f}"
        )
    if arguments.json:
        summary = {
            "evidence": "measured",
            "device": product_name(),
            "cpus": os.cpu_count(),
            "libc": " ".join(platform.libc_ver()),
            "date": datetime.date.today().isoformat(),
            "worker_environment": dict(MANIFEST.worker_environment),
        }
        with open(arguments.json, "w") as file:
            json.dump({"rows": rows, "summary": summary}, file, indent=1)


if __name__ == "__main__":
    main()
