"""Where the seconds of evaluations go: requests to workers by operation, over a short run.

    python benchmarks/evaluation_profile.py [--spec examples/rmsnorm.yaml] [--backend NAME]
        [--candidates 4] [--json FILE]

`seconds` are the parent's wall time in requests of that kind; requests of one run mostly follow one another,
so their sum over the number of candidates says what a candidate costs. `search` is the run's own time between
its first and its last evaluation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from threading import Lock
from typing import Any

import kevolve_core
from kevolve_core.isolate.process import WorkerProcess


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--spec", type=Path, default=Path(__file__).parent.parent / "examples" / "rmsnorm.yaml"
    )
    parser.add_argument("--backend", default=None)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lock, begun = Lock(), time.perf_counter()
    calls: list[tuple[float, float, str, str]] = []
    plain = WorkerProcess.call

    def noted(self: WorkerProcess, op: str, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return plain(self, op, *args, **kwargs)
        finally:
            end = time.perf_counter()
            with lock:
                calls.append((start - begun, end - start, self.name.partition("-")[0], op))

    WorkerProcess.call = noted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as scratch:
        result = kevolve_core.evolve(
            options.spec, backend=options.backend, budget=f"{options.candidates}c", seed=0,
            out=Path(scratch) / "run",
        )  # fmt: skip
    total = time.perf_counter() - begun
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _, seconds, worker, op in calls:
        sums[worker, op].append(seconds)
    rows = [
        {"worker": w, "op": op, "calls": len(v), "seconds": sum(v), "longest": max(v)}
        for (w, op), v in sorted(sums.items(), key=lambda x: -sum(x[1]))
    ]
    print(f"{'worker':<12}{'op':<16}{'calls':>6}{'seconds':>9}{'longest':>9}")
    for r in rows[:20]:
        print(f"{r['worker']:<12}{r['op']:<16}{r['calls']:>6}{r['seconds']:>9.2f}{r['longest']:>9.2f}")
    judged = [s for s, _, w, op in calls if op == "judge"]
    print(f"total {total:.1f} s, {result.search.evaluations} evaluations in the search of "
          f"{result.search.seconds:.1f} s; first judgement at {min(judged, default=0):.1f} s")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "calls": calls, "total": total}, indent=1))


if __name__ == "__main__":
    main()
