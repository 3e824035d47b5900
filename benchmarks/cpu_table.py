"""A fixed table of 60 problems on this machine's CPU: every kernel against eager and torch.compile.

    python benchmarks/cpu_table.py --out DIR [--root KERNELBENCH] [--budget 30s] [--seed 0] [--only TEXT]
                                   [--limit N] [--json FILE]

36 problems are the project's own (``cpu_table.txt``: problems of op_suite.py at the sizes of real workloads);
24 are KernelBench's at small scale, read from a checkout given with --root and left out without one. Each is
searched with the same budget, and what came closest is measured beside both baselines in one run: all sides
interleaved call by call on fresh data, caches flushed; a winner in fresh processes once more. `eager` and
`compile` are their times over the kernel's; the geomean is over the better of the two, for the kernel that
came closest (a search that finds nothing better delivers the baseline, which counts as 1 in `delivered`).
Problems under 1 are listed with what is known of why. A row is a JSON line in DIR/rows.jsonl as soon as it is
there, and says its commit; what DIR has is not run again, and a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from op_problems import problems

from kevolve_core.api import Result
from kevolve_core.api.evolving import evolve, resume
from kevolve_core.bench.environment import commit
from kevolve_core.bench.problems import find_problems, spec_of
from kevolve_core.errors import KevolveError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.report import environment

#: One or two of every kind, none whose output is degenerate, and none with an operator that is a library call
#: and nothing else (large convolutions alone), which no epilogue can make faster.
KERNELBENCH = (
    "1/2", "1/12", "1/22", "1/23", "1/34", "1/36", "1/38", "1/43", "1/47", "1/91", "1/96", "1/100",
    "2/4", "2/12", "2/17", "2/22", "2/35", "2/37", "2/45", "2/52", "2/59", "2/81", "2/92", "2/99",
)  # fmt: skip
BETTER = 1.02  # a ratio within 2 % of 1 is neither an improvement nor a regression: below what repeats

Row = dict[str, Any]


def named_specs(root: str | None) -> Iterator[tuple[str, KernelSpec]]:
    """(id, spec) of every problem of the table that is there, in order."""
    for p in problems(Path(__file__).with_suffix(".txt")):
        yield p.name, p.spec
    if root is None:
        return
    from kevolve_core.bench.shrink import SCALES, shrunk

    for problem in find_problems(root, (1, 2), KERNELBENCH):
        source = shrunk(problem.path.read_text(encoding="utf-8"), SCALES["small"], str(problem.path))
        yield f"kernelbench {problem.id}", spec_of(problem, source)


def read_rows(out: Path) -> dict[str, Row]:
    """The rows of a folder by problem; a torn last line is left out."""
    rows: dict[str, Row] = {}
    path = out / "rows.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["id"]] = row
    return rows


def searched(name: str, spec: KernelSpec, options: argparse.Namespace) -> Row:
    """The row of one problem; a failure is a row with its reason."""
    folder = options.out / "runs" / name.replace(" ", "_").replace("/", "_")
    row: Row = {"id": name, "budget": options.budget, "seed": options.seed, "commit": commit()}
    try:
        if (folder / "run.sqlite").exists():
            result = resume(folder)
        else:
            result = evolve(
                spec, backend="cpu", budget=options.budget, seed=options.seed, out=folder, memory="off"
            )
    except KevolveError as error:
        return row | {"outcome": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    return row | figures(result)


def figures(result: Result) -> Row:
    """Times and ratios of what came closest, from its latest measurement."""
    m, e = result.measurement, result.evaluation
    if m is None or e is None or not m.candidate:
        return {"outcome": "failed", "reason": result.reason}
    kernel = median(m.candidate)
    times = {n: median(v) for n, v in m.baselines.items()}
    profile = e.profile
    row: Row = {
        "phase": m.phase,
        "evidence": m.evidence.value,
        "kernel_ms": 1e3 * kernel,
        "eager": times["eager"] / kernel,
        "compile": times["torch.compile"] / kernel if "torch.compile" in times else None,
        "ratio": min(times.values()) / kernel,
        "improved": result.improved,
        "libraries": list(e.library_calls),
        "evaluations": result.search.evaluations,
        "bottleneck": profile.bottleneck if profile else "",
        "hint": profile.hints[0] if profile and profile.hints else "",
    }
    row["outcome"] = outcome(row["ratio"])
    if row["outcome"] == "regression":
        row["reason"] = explained(row)
    return row


def outcome(ratio: float) -> str:
    """``faster``, ``equal`` or ``regression`` against the better baseline."""
    return "faster" if ratio > BETTER else "equal" if ratio * BETTER >= 1 else "regression"


def explained(row: Row) -> str:
    """Why a kernel is slower, as far as its library calls and profile say."""
    parts = []
    if row["libraries"]:
        parts.append(f"calls {', '.join(row['libraries'])}, which the baseline calls too")
    if row["compile"] is not None and row["eager"] > row["compile"]:
        parts.append(f"torch.compile fuses it too (eager {row['eager']:.2f})")
    if row["bottleneck"]:
        parts.append(f"{row['bottleneck']}-bound: {row['hint']}")
    return "; ".join(parts) or "no profile"


def show(row: Row) -> None:
    if "ratio" not in row:
        print(f"{row['id']:<26}{row['outcome']}: {row['reason']}", flush=True)
        return
    compiled = f"{row['compile']:.2f}" if row["compile"] is not None else "none"
    print(f"{row['id']:<26}{row['kernel_ms']:>10.3f}{row['eager']:>8.2f}{compiled:>9}{row['ratio']:>7.2f}"
          f"  {row['outcome']:<11}{' '.join(row['libraries'])}", flush=True)  # fmt: skip


def geomean(ratios: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


def summary_of(rows: Sequence[Row], total: int) -> dict[str, Any]:
    timed = [r for r in rows if "ratio" in r]
    ratios = [r["ratio"] for r in timed]
    return {
        "geomean": geomean(ratios),
        "delivered": geomean([r["ratio"] if r["improved"] else 1.0 for r in timed]),
        "geomean_eager": geomean([r["eager"] for r in timed]),
        "geomean_compile": geomean([r["compile"] for r in timed if r["compile"] is not None]),
        "worst": min(ratios, default=None),
        "correct": len(timed),
        "total": total,
        "regressions": {r["id"]: r["reason"] for r in timed if r["outcome"] == "regression"},
        "failed": {r["id"]: r["reason"] for r in rows if "ratio" not in r},
        "environment": environment(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows and runs")
    parser.add_argument("--root", help="a checkout of KernelBench")
    parser.add_argument("--budget", default="30s", help="of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--limit", type=int, default=0, help="stop after this many new problems")
    parser.add_argument("--json", type=Path, help="write rows and summary there")
    options = parser.parse_args()
    try:
        chosen = [(n, s) for n, s in named_specs(options.root) if options.only in n]
    except KevolveError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.out)
    other = next(
        (r for r in rows.values() if (r["budget"], r["seed"]) != (options.budget, options.seed)), None
    )
    if other is not None:
        print(f"{options.out} has rows of --budget {other['budget']} --seed {other['seed']}; "
              "use those, or another folder", file=sys.stderr)  # fmt: skip
        return 2
    print(f"{'problem':<26}{'kernel ms':>10}{'eager':>8}{'compile':>9}{'ratio':>7}")
    new = 0
    for name, spec in chosen:
        if name in rows:
            show(rows[name])
            continue
        if options.limit and new >= options.limit:
            break
        new += 1
        rows[name] = searched(name, spec, options)
        with open(options.out / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[name]) + "\n")
        show(rows[name])
    done = [rows[n] for n, _ in chosen if n in rows]
    summary = summary_of(done, len(chosen))
    ran = f"--budget {options.budget} --seed {options.seed}"
    summary["command"] = f"python benchmarks/cpu_table.py --out DIR --root ROOT {ran}"
    if summary["geomean"] is not None:
        print(f"\n{summary['correct']} of {summary['total']}: geomean {summary['geomean']:.2f} over the "
              f"better (delivered {summary['delivered']:.2f}; eager {summary['geomean_eager']:.2f}), "
              f"worst {summary['worst']:.2f}")  # fmt: skip
    for kind in ("regressions", "failed"):
        for name, why in summary[kind].items():
            print(f"{kind.removesuffix('s')}: {name}: {why}")
    if options.json:
        options.json.write_text(json.dumps({"rows": done, "summary": summary}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
