"""Correctness of synthesised kernels by operator: what is generated, what calls the library, what nothing.

    python benchmarks/op_suite.py --backend NAME [--language NAME] [--random 500] [--only TEXT] [--json FILE]

Every problem is a small reference with ragged sizes and, for many, a layout that is not contiguous. Its first
proposal is compiled, run on the evaluator's families of inputs and judged by the evaluator's tolerance
against a float64 reference; nothing is timed. ``generated`` are those whose candidate calls no ATen operator
that computes but matrix products and convolutions. With --random, references from a grammar follow: each is
correct, or refused by the generator with the operator's name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from op_problems import problems
from random_graphs import random_spec

from kevolve_core.api.parts import Place, place
from kevolve_core.bench.pool import Checker, over
from kevolve_core.errors import WorkerError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.report import environment
from kevolve_core.serial import to_plain

Row = dict[str, Any]
_REFUSALS = ("UnsupportedError", "CaptureError")


def overloads(specs: Sequence[KernelSpec]) -> set[str]:
    """ATen overloads that the references dispatch to when they run eagerly."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from kevolve_core.spec.runtime import draw_inputs, load_reference

    found: set[str] = set()

    class Noting(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found.add(str(func))
            return func(*args, **(kwargs or {}))

    for spec in specs:
        case = spec.cases[0]
        reference = load_reference(spec, case, 0)
        inputs = draw_inputs(spec, case, 0)
        with torch.no_grad(), Noting():
            reference.call(*inputs)
    return found


def run(named: Sequence[tuple[str, str, KernelSpec]], where: Place, language: str, jobs: int) -> list[Row]:
    """A row for each (name, family, spec), in order."""
    rows: dict[str, Row] = {}
    lock = threading.Lock()

    def work(item: tuple[str, str, KernelSpec], checker: Checker) -> None:
        name, family, spec = item
        row: Row = {"name": name, "family": family}
        secret = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        try:
            row.update(checker.call("check", {"spec": to_plain(spec), "seed": 0, "secret": secret}))
        except WorkerError as error:
            row.update(correct=False, generated_correct=False, libraries=[], reason=str(error))
        row["outcome"] = outcome(row)
        with lock:
            rows[name] = row
            if row["outcome"] in {"wrong", "nothing"}:
                why = " ".join(row["reason"].split())[:200]
                print(f"{len(rows)}/{len(named)} {name}: {row['outcome']}: {why}", flush=True)

    over(named, work, where, language=language, jobs=jobs)
    return [rows[name] for name, _, _ in named]


def outcome(row: Mapping[str, Any]) -> str:
    """``generated``, ``library``, ``nothing`` (refused, with the operator's name) or ``wrong``."""
    if row["correct"]:
        return "generated" if row["generated_correct"] else "library"
    return "nothing" if row["reason"].startswith(_REFUSALS) else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", help="where; the only one that is ready by default")
    parser.add_argument(
        "--language", default="", help="of the candidates; the generator's own choice by default"
    )
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--random", type=int, default=0, help="random graphs to try as well")
    parser.add_argument("--jobs", type=int, default=0, help="checking processes; one a core by default")
    parser.add_argument("--json", type=Path, help="write rows and summary there")
    options = parser.parse_args()
    where = place(None, options.backend)
    chosen = [p for p in problems() if options.only in p.name]
    started = time.monotonic()
    known = overloads([p.spec for p in chosen])
    rows = run([(p.name, p.family, p.spec) for p in chosen], where, options.language, options.jobs)
    graphs = [(f"graph_{k}", "random", random_spec(k)) for k in range(options.random)]
    rows += run(graphs, where, options.language, options.jobs) if graphs else []
    summary: dict[str, Any] = {"overloads": len(known), "seconds": round(time.monotonic() - started)}
    for family in dict.fromkeys(r["family"] for r in rows):
        counts = Counter(r["outcome"] for r in rows if r["family"] == family)
        total = sum(counts.values())
        summary[family] = {"total": total, "correct": counts["generated"] + counts["library"], **counts}
    suite = [r for r in rows if r["family"] != "random"]
    summary["total"] = len(suite)
    summary["correct"] = sum(bool(r["correct"]) for r in suite)
    summary["generated_share"] = sum(r["outcome"] == "generated" for r in suite) / max(1, len(suite))
    summary["environment"] = environment([])
    print(f"\n{'family':<10} {'total':>6} {'generated':>10} {'library':>8} {'nothing':>8} {'wrong':>6}")
    for family in dict.fromkeys(r["family"] for r in rows):
        c = summary[family]
        cells = [c.get(k, 0) for k in ("generated", "library", "nothing", "wrong")]
        print(f"{family:<10} {c['total']:>6} {cells[0]:>10} {cells[1]:>8} {cells[2]:>8} {cells[3]:>6}")
    print(f"{len(known)} ATen overloads; {summary['generated_share']:.1%} of the suite is generated")
    calls = Counter(c for r in suite if r["outcome"] == "library" for c in r["libraries"])
    print("library: " + ", ".join(f"{name} {n}" for name, n in calls.most_common()))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1), encoding="utf-8")
    return 0 if all(r["outcome"] in {"generated", "library"} for r in suite) else 1


if __name__ == "__main__":
    sys.exit(main())
