"""Who takes part in replays of recorded spaces: the policies that ship, and controls that share nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recorded import Recorded, search, spaces

from kevolve_core.evolve import make_policy

__all__ = ["AT", "curve", "read"]

AT = (25, 50, 100, 200)


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
    recorded = next(one for one in read(folder) if one.name == space)
    own: dict[str, Callable[[Recorded, int], list[float]]] = {
        "random, blind": blind_curve,
        "genetic": genetic_curve,
        "tpe": tpe_curve,
    }
    if name in own:
        return own[name](recorded, seed)
    return policy_curve(recorded, name, options, seed, window, evaluations)


_spaces: dict[Path, list[Recorded]] = {}


def read(folder: Path) -> list[Recorded]:
    """The spaces of a folder, read once a process."""
    if folder not in _spaces:
        _spaces[folder] = spaces(folder)
    return _spaces[folder]
