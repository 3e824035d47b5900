"""Correctness of synthesised kernels by operator: what is generated, what calls the library, what nothing.

    python benchmarks/op_suite.py --backend NAME [--language NAME] [--random 500] [--only TEXT]
        [--plugin MODULE] [--drafts 3] [--rows FILE] [--seconds S] [--json FILE]

Every problem is a small reference with ragged sizes and, for many, a layout that is not contiguous. Its first
proposal is compiled, run on the evaluator's families of inputs and judged by the evaluator's tolerance
against a float64 reference; where it is wrong, as in a search, the next one is (--drafts), which the row and
the summary say (`wrong_first_draft`). Nothing is timed. ``generated`` are those whose candidate calls no ATen
operator that computes but matrix products and convolutions. With --random, references from a grammar follow:
each is correct, or refused by the generator with the operator's name. With --rows, each row is appended to a
file as it comes and what the file has is not run again, so that a run can be stopped (--seconds) and taken up
later.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
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
from kevolve_core.registry import Registry
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


def run(
    named: Sequence[tuple[str, str, KernelSpec]],
    where: Place,
    *,
    language: str = "",
    jobs: int = 0,
    drafts: int = 1,
    file: Path | None = None,
    until: float = math.inf,
) -> list[Row]:
    """A row for each (name, family, spec), in order; those that ``file`` has are taken from there, and none
    is begun after ``until`` (of `time.monotonic`)."""
    rows = _read(file)
    lock = threading.Lock()

    def work(item: tuple[str, str, KernelSpec], checker: Checker) -> None:
        name, family, spec = item
        if time.monotonic() > until:
            return
        row: Row = {"name": name, "family": family}
        secret = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        try:
            asked = {"spec": to_plain(spec), "seed": 0, "secret": secret, "drafts": drafts}
            row.update(checker.call("check", asked))
        except WorkerError as error:
            row.update(correct=False, generated_correct=False, libraries=[], reason=str(error))
        row["outcome"] = outcome(row)
        with lock:
            rows[name] = row
            if file is not None:
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
            if row["outcome"] in {"wrong", "nothing"}:
                why = " ".join(row["reason"].split())[:200]
                print(f"{len(rows)}/{len(named)} {name}: {row['outcome']}: {why}", flush=True)

    over([n for n in named if n[0] not in rows], work, where, language=language, jobs=jobs)
    return [rows[name] for name, _, _ in named if name in rows]


def _read(file: Path | None) -> dict[str, Row]:
    if file is None or not file.exists():
        return {}
    found = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {row["name"]: row for row in found}


def _registry(plugin: str | None) -> Registry | None:
    """A registry of the plugin in that module alone; None for those that are installed."""
    if plugin is None:
        return None
    registry = Registry()
    registry.register(importlib.import_module(plugin), name=plugin)
    return registry


def outcome(row: Mapping[str, Any]) -> str:
    """``generated``, ``library``, ``nothing`` (refused, with the operator's name) or ``wrong``."""
    if row["correct"]:
        return "generated" if row["generated_correct"] else "library"
    return "nothing" if row["reason"].startswith(_REFUSALS) else "wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backend", help="where; the only one that is ready by default")
    parser.add_argument(
        "--plugin", help="module of a plugin that is not installed, such as tests.interpreted.plugin"
    )
    parser.add_argument(
        "--language", default="", help="of the candidates; the generator's own choice by default"
    )
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--random", type=int, default=0, help="random graphs to try as well")
    parser.add_argument("--jobs", type=int, default=0, help="checking processes; one a core by default")
    parser.add_argument("--drafts", type=int, default=3, help="that a problem may take to be right")
    parser.add_argument("--rows", type=Path, help="append rows there, and skip those it has")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no problem after this")
    parser.add_argument("--json", type=Path, help="write rows and summary there")
    options = parser.parse_args()
    where = place(None, options.backend, registry=_registry(options.plugin))
    chosen = [p for p in problems() if options.only in p.name]
    started = time.monotonic()
    known = overloads([p.spec for p in chosen])
    named = [(p.name, p.family, p.spec) for p in chosen]
    named += [(f"graph_{k}", "random", random_spec(k)) for k in range(options.random)]
    rows = run(
        named, where, language=options.language, jobs=options.jobs, drafts=options.drafts, file=options.rows,
        until=started + options.seconds,
    )  # fmt: skip
    if len(rows) < len(named):
        print(f"{len(rows)} of {len(named)} problems so far")
    summary: dict[str, Any] = {"overloads": len(known), "seconds": round(time.monotonic() - started)}
    for family in dict.fromkeys(r["family"] for r in rows):
        counts = Counter(r["outcome"] for r in rows if r["family"] == family)
        total = sum(counts.values())
        summary[family] = {"total": total, "correct": counts["generated"] + counts["library"], **counts}
    suite = [r for r in rows if r["family"] != "random"]
    summary["total"] = len(suite)
    summary["correct"] = sum(bool(r["correct"]) for r in suite)
    summary["wrong_first_draft"] = [r["name"] for r in rows if r.get("wrong_drafts")]
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
