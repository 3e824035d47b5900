"""How near to the optimum each policy comes on recorded tuning spaces, by evaluations paid.

    python benchmarks/search_replay.py --data FOLDER [--seeds 30] [--leave-one-out] [--kept FILE] [--json
    FILE]

FOLDER holds Kernel Tuner cache files (see recorded.py). Every policy that ships proposes points through the
loop's own generator, window and steering; an evaluation is looked up. Failures are paid for, points that the
space's constraints forbid cost nothing, repeats are free. The figure is the fraction of the optimum's speed
that the best configuration so far has after 25, 50, 100 and 200 evaluations: the mean over spaces of the mean
over seeds, with a 95 % bootstrap interval over seeds.

Controls, which know nothing of Kevolve: `random` (uniform over the legal points), `random, blind` (uniform
over the whole product: illegal points are paid for, as in a tuner to which nobody declares constraints),
`genetic` (a plain genetic algorithm, Kernel Tuner's defaults: population 20, uniform crossover, mutation of
one gene in ten) and `tpe` (Optuna's tree-structured Parzen estimator with its defaults, where Optuna is
installed; illegal points it asks for are told as ten times the worst time and not paid for).

With `--kept FILE`, searches that were done are written there and not done again: a sweep may be stopped at
any time, or after `--minutes`, and gone on with by the same command.

`--leave-one-out` checks the surrogate's settings: of the grid below, the setting that does best at 100
evaluations on all other spaces is run on the one left out.

The defaults of `surrogate` (width, unguided share, pool, leaves) and of `mcts` (exploration) were chosen
while watching sweeps over three recorded spaces: convolution on A100 and RTX 3090, pnpoly on RTX 3090. Their
figures there are optimistic; a space that played no part in the choice is the fair test.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from kept import Kept
from recorded import Recorded, interval, search, spaces

from kevolve_core.evolve import POLICIES, make_policy

AT = (25, 50, 100, 200)
_CHECKED_AT = 100  # evaluations by which settings of the surrogate are compared
CONTROLS = ("random", "random, blind", "genetic", "tpe")
# Each setting differs from the default in one respect, for the reason given.
GRID: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "no unguided moves": {"blind": 0.0},  # trusts the model alone
    "more unguided moves": {"blind": 0.5},  # trusts it less
    "more drafts": {"explore": 0.3},  # more of the whole space
    "narrower": {"width": 3},  # fewer parents at a time
    "a third is good": {"good": 0.33},  # a milder threshold
    "a twelfth is good": {"good": 0.08},  # a sharper one
}


def policy_curve(
    recorded: Recorded, name: str, options: Mapping[str, Any], seed: int, window: int, evaluations: int
) -> list[float]:
    return search(recorded, make_policy(name, options), seed, evaluations, window=window)


def blind_curve(recorded: Recorded, seed: int) -> list[float]:
    """Uniform over the product, constraints unknown."""
    rng = random.Random(f"blind:{seed}")
    best, curve = 0.0, list[float]()
    seen: set[tuple[Any, ...]] = set()
    while len(curve) < AT[-1]:
        key = tuple(rng.choice(p.choices) for p in recorded.space.parameters)
        if key in seen:
            continue
        seen.add(key)
        seconds = recorded.seconds.get(key)
        best = max(best, recorded.best / seconds if seconds else 0.0)
        curve.append(best)
    return curve


def genetic_curve(recorded: Recorded, seed: int) -> list[float]:
    """A plain generational genetic algorithm over the legal points."""
    rng = random.Random(f"genetic:{seed}")
    size, space = 20, recorded.space
    known: dict[tuple[Any, ...], float] = {}
    best, curve = 0.0, list[float]()

    def fitness(point: Mapping[str, Any]) -> float:
        nonlocal best
        key = tuple(point.values())
        if key not in known:
            seconds = recorded.time(point)
            known[key] = recorded.best / seconds if seconds else 0.0
            best = max(best, known[key])
            curve.append(best)
        return known[key]

    population = [space.sample(rng) for _ in range(size)]
    for _ in range(1000):
        if len(curve) >= AT[-1]:
            break
        ranked = sorted(population, key=fitness, reverse=True)
        weights = [size - place for place in range(size)]
        children: list[dict[str, Any]] = []
        while len(children) < size:
            mother, father = rng.choices(ranked, weights, k=2)
            child = {name: rng.choice((mother[name], father[name])) for name in mother}
            for parameter in space.parameters:
                if rng.random() < 0.1:
                    child[parameter.name] = rng.choice(parameter.choices)
            if space.violated(child) is None:
                children.append(child)
        population = children
    return (curve + [best] * AT[-1])[: AT[-1]]


def tpe_curve(recorded: Recorded, seed: int) -> list[float]:
    """Optuna's TPE. Log times are minimised; a failure is told as ten times the worst."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    bad = math.log(10 * max(value for value in recorded.seconds.values() if value is not None))
    best, curve = 0.0, list[float]()
    seen: dict[tuple[Any, ...], float] = {}
    for _ in range(20 * AT[-1]):
        trial = study.ask()
        key = tuple(
            parameter.choices[trial.suggest_int(parameter.name, 0, len(parameter.choices) - 1)]
            for parameter in recorded.space.parameters
        )
        if key not in recorded.seconds:
            study.tell(trial, bad)
            continue
        if key not in seen:
            seconds = recorded.seconds[key]
            seen[key] = bad if seconds is None else math.log(seconds)
            best = max(best, recorded.best / seconds if seconds else 0.0)
            curve.append(best)
        study.tell(trial, seen[key])
        if len(curve) >= AT[-1]:
            break
    return (curve + [best] * AT[-1])[: AT[-1]]


def curve(job: tuple[Path, str, str, Mapping[str, Any], int, int, int]) -> list[float]:
    """One search, in a worker: (folder, space, contender, options, seed, window, evaluations)."""
    folder, space, name, options, seed, window, evaluations = job
    recorded = next(one for one in _read(folder) if one.name == space)
    own: dict[str, Callable[[Recorded, int], list[float]]] = {
        "random, blind": blind_curve,
        "genetic": genetic_curve,
        "tpe": tpe_curve,
    }
    if name in own:
        return own[name](recorded, seed)
    return policy_curve(recorded, name, options, seed, window, evaluations)


_spaces: dict[Path, list[Recorded]] = {}


def _read(folder: Path) -> list[Recorded]:
    if folder not in _spaces:
        _spaces[folder] = spaces(folder)
    return _spaces[folder]


@frozen
class Sweep:
    """How searches are run: in ``workers`` processes, with what `Kept` has left out."""

    folder: Path
    seeds: int
    window: int
    workers: int
    kept: Kept

    def measured(
        self, names: Sequence[str], grid: Mapping[str, Mapping[str, Any]], evaluations: int = AT[-1]
    ) -> dict[tuple[str, str], list[list[float]]]:
        """(contender, space) -> a curve a seed."""
        jobs = [
            (
                self.folder,
                one.name,
                name.split("/")[0],
                dict(grid.get(name, {})),
                seed,
                self.window,
                evaluations,
            )
            for name in names
            for one in _read(self.folder)
            for seed in range(self.seeds)
        ]
        keys = [(name, one.name) for name in names for one in _read(self.folder) for _ in range(self.seeds)]
        curves = self.kept.map(curve, jobs, self.workers)
        found: dict[tuple[str, str], list[list[float]]] = {}
        for key, one in zip(keys, curves, strict=True):
            found.setdefault(key, []).append(one)
        return found


def rows_of(found: Mapping[tuple[str, str], list[list[float]]], folder: Path) -> list[dict[str, Any]]:
    """A row a contender: the mean over spaces at each count, with an interval over seeds."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        row: dict[str, Any] = {"policy": name, "spaces": {}}
        by_space = [found[name, one.name] for one in _read(folder)]
        for count in AT:
            each = [statistics.fmean(c[count - 1] for c in same) for same in zip(*by_space, strict=True)]
            low, high = interval(each)
            row[f"at_{count}"] = statistics.fmean(each)
            row[f"interval_{count}"] = [low, high]
        for one, curves in zip(_read(folder), by_space, strict=True):
            row["spaces"][one.name] = {n: statistics.fmean(c[n - 1] for c in curves) for n in AT}
        rows.append(row)
    return rows


def leave_one_out(sweep: Sweep) -> list[dict[str, Any]]:
    """The setting chosen on all other spaces, run on the one left out, beside the default there."""
    names = {f"surrogate/{label}": options for label, options in GRID.items()}
    found = sweep.measured(list(names), names, _CHECKED_AT)
    mean = {key: statistics.fmean(c[-1] for c in curves) for key, curves in found.items()}
    all_names = [one.name for one in _read(sweep.folder)]
    rows = []
    for left in all_names:
        others = [name for name in all_names if name != left]
        chosen = max(names, key=lambda name: statistics.fmean(mean[name, other] for other in others))
        rows.append(
            {
                "space": left,
                "chosen_on_the_others": chosen.partition("/")[2],
                "chosen_at_100": mean[chosen, left],
                "default_at_100": mean["surrogate/default", left],
                "grid_at_100": {name.partition("/")[2]: mean[name, left] for name in names},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--policies", nargs="+", default=sorted(set(POLICIES) - {"random", "independent"}))
    parser.add_argument("--controls", nargs="*", default=list(CONTROLS))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--window", type=int, default=4, help="proposals in flight, as in a real run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--leave-one-out", action="store_true", help="check the surrogate's settings too")
    parser.add_argument("--grid-seeds", type=int, default=10, help="for each of those settings")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="searches done so far; goes on with them")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; see --kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    controls = [name for name in arguments.controls if name != "tpe" or find_spec("optuna") is not None]
    if len(controls) < len(arguments.controls):
        print("tpe is left out: Optuna is not installed")
    read = _read(arguments.data)
    for one in read:
        print(f"{one.name}: {len(one.seconds)} legal configurations, {one.failures} of them fail")
    kept = Kept(arguments.kept, arguments.minutes * 60)
    sweep = Sweep(arguments.data, arguments.seeds, arguments.window, arguments.workers, kept)
    names = [*controls, *arguments.policies]
    found = sweep.measured(names, {})
    rows = rows_of(found, arguments.data)
    print(f"\nfraction of the optimum, mean of {len(read)} spaces and {arguments.seeds} seeds, 95 % interval")
    print(f"{'':<15}" + "".join(f"{count:>23}" for count in AT))
    for row in rows:
        cells = [
            f"{row[f'at_{n}']:.3f} [{row[f'interval_{n}'][0]:.3f}, {row[f'interval_{n}'][1]:.3f}]" for n in AT
        ]
        print(f"{row['policy']:<15}" + "".join(f"{cell:>23}" for cell in cells))
    print("\nat 100, by space")
    for row in rows:
        print(f"{row['policy']:<15}" + "".join(f"{n:>24} {v[100]:.3f}" for n, v in row["spaces"].items()))
    best = max((row for row in rows if row["policy"] in arguments.policies), key=lambda row: row["at_100"])
    over = {row["policy"]: best["at_100"] - row["at_100"] for row in rows if row["policy"] in controls}
    shown = ", ".join(f"{value:+.3f} over {name}" for name, value in over.items())
    print(f"\nbest at 100: {best['policy']} {best['at_100']:.3f}; {shown}")
    smaller = evolve(sweep, seeds=min(arguments.seeds, arguments.grid_seeds))
    checked = leave_one_out(smaller) if arguments.leave_one_out else []
    for row in checked:
        print(
            f"left out {row['space']}: '{row['chosen_on_the_others']}' is best on the others and reaches "
            f"{row['chosen_at_100']:.3f} here, the default {row['default_at_100']:.3f}"
        )
    summary = {
        "best": best["policy"],
        "at_100": best["at_100"],
        "over": over,
        "leave_one_out": checked,
        "leave_one_out_seeds": smaller.seeds,
        "command": shown_command("search_replay.py", sys.argv[1:]),
        "environment": environment(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


def environment() -> dict[str, Any]:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": done.stdout.strip() or "unknown",
    }


def shown_command(script: str, words: Sequence[str]) -> str:
    """A benchmark's command without folders of this machine."""
    shown = [Path(word).name if word.startswith("/") else word for word in words]
    return " ".join(["python", f"benchmarks/{script}", *shown])


if __name__ == "__main__":
    main()
