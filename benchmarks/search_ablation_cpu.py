"""What each policy and each use of memory is worth on real kernels of a CPU, at equal budgets.

    python benchmarks/search_ablation_cpu.py --kept FILE [--minutes M] [--seeds 10] [--evaluations 16]
        [--specs FILE FILE] [--json FILE]

1. Two spaces are measured, one of softmax and one of RMS normalisation: schedules that `synth` has for the
   fused kernel, with fewer choices a tunable (`measured_space.TRIED`). Every distinct kernel is built,
   checked and timed once, by the evaluator, as in a search but in more rounds.
2. Every policy, with memory off, warm and split, searches each space with the loop of a real run, store
   included; an evaluation is the one that was measured. So all are compared on the same measurements and
   differ by what they propose. Memory is what a random search of as many evaluations found on the other
   space: its best three points, made legal here.
3. A few searches (`--live`) on the first space run with every kernel checked and timed anew, to see whether
   what the recorded measurements say holds for searches that measure for themselves.

The figure of 2 is the fraction of the space's best score (speed-up over the best baseline) after the budget:
mean over seeds, with a 95 % bootstrap interval; `early` is the same after a quarter of the budget.

With ``--kept FILE`` evaluations and searches are written there as they are made; ``--minutes`` stops the
work, and the same command goes on with it on the same machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measured_searches import GENOMES, Sweep, difference, judgement, pooled, repeated
from measured_space import Book, Kernels, TimeUpError, measure, shown
from provenance import environment, shown_command
from search_ablation import MODES

from kevolve_core.evolve import POLICIES

SPECS = Path(__file__).parent / "sessions" / "specs"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--specs",
        type=Path,
        nargs=2,
        default=(SPECS / "softmax.yaml", SPECS / "rmsnorm.yaml"),
        metavar="FILE",
        help="two operators; each is searched with experience from the other",
    )
    parser.add_argument("--policies", nargs="+", default=[*sorted(set(POLICIES) - {"independent"}), "bandit"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=16)
    parser.add_argument("--live", nargs="*", default=["greedy", "surrogate"], metavar="POLICY")
    parser.add_argument("--live-modes", nargs="+", default=["off"], choices=MODES)
    parser.add_argument("--live-seeds", type=int, default=3)
    parser.add_argument("--kept", type=Path, metavar="FILE", help="evaluations made so far")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; see --kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    book = Book(given.kept, time.monotonic() + given.minutes * 60)
    first, second = (Kernels.of(file) for file in given.specs)
    sweeps = [
        Sweep(*pair, book, given.seeds, given.evaluations) for pair in ((first, second), (second, first))
    ]
    rows: list[dict[str, Any]] = []
    try:
        for kernels in (first, second):
            measure(kernels, book)
        for sweep in sweeps:
            rows += sweep.rows(given.policies)
        report(rows)
        live = sweeps[0].live(given.live, given.live_modes, given.live_seeds)
    except TimeUpError:
        raise SystemExit(
            f"{book.paid} evaluations made; the time is up: run the same command again"
        ) from None
    summary = {
        "method": "rows: all searches draw from one measurement of each kernel; live: each measured anew",
        **compared(rows),
        "seeds": given.seeds,
        "evaluations": given.evaluations,
        "experience": f"the best {GENOMES} of a random search of {given.evaluations} on the other space",
        "live": live,
        "live_over_recorded": repeated(book, first.spec.name),
        "command": shown_command("search_ablation_cpu.py", sys.argv[1:]),
        "environment": environment() | {"device": first.where.device.name},
    }
    if given.json:
        spaces = [shown(kernels, book) for kernels in (first, second)]
        given.json.write_text(json.dumps({"rows": rows, "summary": summary, "spaces": spaces}) + "\n")


def compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Split against the better of the other uses of memory: by space and policy, and over both."""
    spaces = dict.fromkeys(row["spaces"][0] for row in rows)
    policies = dict.fromkeys(row["policy"] for row in rows)
    each = {
        f"{space}, {policy}": difference(
            {r["memory"]: r["by_seed"] for r in rows if (r["spaces"][0], r["policy"]) == (space, policy)}
        )
        for space in spaces
        for policy in policies
    }
    return {
        "split_less_the_better": {name: {**of, "verdict": judgement(of)} for name, of in each.items()},
        "by_policy": {p: pooled([r for r in rows if r["policy"] == p]) for p in policies},
        "by_space": {s: pooled([r for r in rows if r["spaces"][0] == s]) for s in spaces},
        "over_all": pooled(rows),
    }


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row a space, policy and use of memory, and the comparisons."""
    print(f"{'space':<12}{'policy':<14}{'memory':<8}{'early':>24}{'final':>24}")
    for row in rows:
        cells = [
            f"{row[key]:.3f} [{row[around][0]:.3f}, {row[around][1]:.3f}]"
            for key, around in (("early", "early_interval"), ("final", "interval"))
        ]
        print(f"{row['spaces'][0]:<12}{row['policy']:<14}{row['memory']:<8}{cells[0]:>24}{cells[1]:>24}")
    found = compared(rows)
    for name, of in (
        *found["split_less_the_better"].items(),
        *found["by_policy"].items(),
        ("all", found["over_all"]),
    ):
        print(f"{name}: split less {of['better']}, paired by seed: {of['difference']:+.3f} "
              f"[{of['low']:+.3f}, {of['high']:+.3f}]; {judgement(of)}")  # fmt: skip


if __name__ == "__main__":
    main()
