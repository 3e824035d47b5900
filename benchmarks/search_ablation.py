"""What each policy and each use of memory is worth, at equal budgets.

    python benchmarks/search_ablation.py --data FOLDER [--seeds 10] [--evaluations 100] [--kept FILE]
        [--json FILE]

On recorded tuning spaces (FOLDER, see recorded.py): every policy with memory off, warm and split. Memory is
what a hundred evaluations of random search found on another recorded space that has most parameters in common
(the same kernel on another device): its best three points, made legal here. A space that has no such relative
starts without experience, and its lanes differ in nothing; it is left out of the columns of memory. The
figure is the fraction of the optimum after the budget: mean over spaces and seeds, with a 95 % bootstrap
interval over seeds; `early` is the same after a quarter of the budget. `bandit` is a bandit over the other
policies.

With `--kept FILE`, searches that were done are written there and not done again. The same on real kernels,
with fewer evaluations, is search_ablation_cpu.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kept import Kept
from provenance import environment, shown_command
from recorded import Recorded, interval, judged, rendered, search, spaces

from kevolve_core.evolve import POLICIES, Memory, make_policy
from kevolve_core.evolve.policies.bandit import BanditPolicy
from kevolve_core.evolve.policies.elites import draw
from kevolve_core.interfaces import SelectionPolicy
from kevolve_core.knowledge.experience import Lanes

MODES = ("off", "warm", "split")
ARMS = ("evolutionary", "greedy", "mcts", "surrogate")
_GENOMES, _PRACTICE = 3, 100


def policy_of(name: str) -> SelectionPolicy:
    return BanditPolicy({arm: make_policy(arm) for arm in ARMS}) if name == "bandit" else make_policy(name)


def relative_of(recorded: Recorded, others: Sequence[Recorded]) -> Recorded | None:
    """Another space with more than half of the parameters of either in common."""
    own = {p.name for p in recorded.space.parameters}
    for other in others:
        theirs = {p.name for p in other.space.parameters}
        if other.name != recorded.name and len(own & theirs) > max(len(own), len(theirs)) / 2:
            return other
    return None


def experience(recorded: Recorded, seed: int) -> tuple[Mapping[str, Any], ...]:
    """The best points of a random search: what an earlier run on that space would have left behind."""
    rng = draw("practice", seed, 0)
    points = [recorded.space.sample(rng) for _ in range(_PRACTICE)]
    ranked = sorted(points, key=lambda point: -(judged(recorded, rendered(point)).score or 0.0))
    return tuple(ranked[:_GENOMES])


def curve(job: tuple[Path, str, str, str, int, int]) -> list[float]:
    folder, space, name, mode, seed, evaluations = job
    every = spaces(folder)
    recorded = next(one for one in every if one.name == space)
    relative = relative_of(recorded, every)
    known = experience(relative, seed) if relative is not None and mode != "off" else ()
    memory = Memory(mode, Lanes() if mode == "split" else None, known)
    return search(recorded, policy_of(name), seed, evaluations, memory=memory)


def recorded_rows(
    folder: Path, names: Sequence[str], seeds: int, evaluations: int, workers: int, kept: Kept
) -> list[dict[str, Any]]:
    every = spaces(folder)
    related = {one.name for one in every if relative_of(one, every) is not None}
    keys = [
        (one.name, name, mode)
        for one in every
        for name in names
        for mode in (MODES if one.name in related else MODES[:1])
    ]
    jobs = [(folder, *key, seed, evaluations) for key in keys for seed in range(seeds)]
    curves = kept.map(curve, jobs, workers)
    found = {key: curves[n * seeds : (n + 1) * seeds] for n, key in enumerate(keys)}
    rows = []
    for name in names:
        for mode in MODES:
            of = [one.name for one in every if mode == "off" or one.name in related]
            rows.append(row_of(name, mode, [found[space, name, mode] for space in of], of))
            if mode == "off" and set(of) - related:  # comparable with the other modes
                of = sorted(related)
                rows.append(row_of(name, "off, related", [found[space, name, mode] for space in of], of))
    return rows


def row_of(
    name: str, mode: str, curves: Sequence[Sequence[Sequence[float]]], of: Sequence[str]
) -> dict[str, Any]:
    def at(share: float) -> tuple[float, tuple[float, float]]:
        place = int(len(curves[0][0]) * share) - 1
        each = [statistics.fmean(curve[place] for curve in same) for same in zip(*curves, strict=True)]
        return statistics.fmean(each), interval(each)

    final, early = at(1.0), at(0.25)
    return {
        "policy": name,
        "memory": mode,
        "spaces": list(of),
        "final": final[0],
        "interval": final[1],
        "early": early[0],
        "early_interval": early[1],
    }


def verdict(rows: Sequence[Mapping[str, Any]], policy: str, figure: str = "final") -> str:
    """Whether split is worse than the better of warm and cold by more than the intervals say."""
    by = {row["memory"]: row for row in rows if row["policy"] == policy}
    cold = by.get("off, related", by["off"])
    better = max(cold, by["warm"], key=lambda row: row[figure])
    if by["split"][figure] >= better[figure]:
        return "no worse"
    return "no worse, within the interval" if by["split"]["interval"][1] >= better[figure] else "worse"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--policies", nargs="+", default=[*sorted(set(POLICIES) - {"independent"}), "bandit"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kept", type=Path, metavar="FILE", help="searches done so far; goes on with them")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; see --kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    kept = Kept(arguments.kept, arguments.minutes * 60)
    rows = recorded_rows(
        arguments.data, arguments.policies, arguments.seeds, arguments.evaluations, arguments.workers, kept
    )
    print(f"{'policy':<14}{'memory':<14}{'early':>24}{'final':>24}")
    for row in rows:
        cells = [
            f"{row[key]:.3f} [{row[around][0]:.3f}, {row[around][1]:.3f}]"
            for key, around in (("early", "early_interval"), ("final", "interval"))
        ]
        print(f"{row['policy']:<14}{row['memory']:<14}{cells[0]:>24}{cells[1]:>24}")
    split = {name: verdict(rows, name) for name in arguments.policies}
    for name, words in split.items():
        print(f"split against the better of cold and warm, {name}: {words}")
    summary = {
        "split_against_the_better": split,
        "command": shown_command("search_ablation.py", sys.argv[1:]),
        "environment": environment(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
