"""Recorded tuning spaces, and a search driven on one: shared by search_replay.py and search_ablation.py.

A space is a file in Kernel Tuner's cache format (https://kerneltuner.github.io): every configuration that its
constraints allow, with its time or the failure it ended in. The file does not spell the constraints out;
which configurations it holds is what they say, so that a point it lacks is illegal, and a point it holds with
a failure is legal and has to be paid for.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from kevolve_core.evolve.points import PointGenerator
from kevolve_core.evolve.steering import Memory, Order, Steering
from kevolve_core.interfaces import Proposal, SelectionPolicy
from kevolve_core.kernelspec import KernelSpec, Reference
from kevolve_core.model import Candidate, Device, Evaluation, Evidence, Target, Verdict, VerdictKind
from kevolve_core.space import Constraint, Parameter, Point, Space

SPEC = KernelSpec(name="recorded", reference=Reference("def f(x): return x", "f"), cases=())
DEVICE = Device("recorded:0", "recorded", "recorded", Target("recorded", "recorded"))
WINDOW, ATTEMPTS = 4, 4  # those of a real run (`SearchSettings`)


@frozen
class Recorded:
    """One space. ``seconds`` maps the values of a legal configuration, in the parameters' order, to its time,
    None where it failed; ``space`` is legal where it has a value."""

    name: str
    space: Space
    seconds: Mapping[tuple[Any, ...], float | None] = field(repr=False)
    best: float

    def time(self, point: Point) -> float | None:
        return self.seconds[tuple(point[p.name] for p in self.space.parameters)]

    @property
    def failures(self) -> int:
        return sum(seconds is None for seconds in self.seconds.values())


def read(path: Path) -> Recorded:
    """A space from a cache file, gzipped or not. Raises SystemExit with the cause where it is none."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        document = json.loads(raw)
        entries, choices = list(document["cache"].values()), document["tune_params"]
        names = [name for name in document["tune_params_keys"] if len(choices[name]) > 1]
        seconds = {
            tuple(entry[name] for name in names): float(entry["time"]) / 1e3  # recorded in milliseconds
            if isinstance(entry["time"], (int, float))
            else None
            for entry in entries
        }
        best = min(value for value in seconds.values() if value is not None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"{path} is no cache file of Kernel Tuner: {type(error).__name__}: {error}"
        ) from error
    first = _middle(list(seconds), names, choices)
    parameters = tuple(
        Parameter(name, tuple(choices[name]), value) for name, value in zip(names, first, strict=True)
    )
    legal = Constraint("recorded", lambda point: tuple(point[name] for name in names) in seconds)
    return Recorded(path.name.split(".")[0], Space(parameters, (legal,)), seconds, best)


def _middle(
    legal: Sequence[tuple[Any, ...]], names: Sequence[str], choices: Mapping[str, Sequence[Any]]
) -> tuple[Any, ...]:
    """The legal configuration nearest to the middle choice of every parameter: a default that knows
    nothing."""

    def off(point: tuple[Any, ...]) -> int:
        return sum(
            abs(choices[name].index(value) - len(choices[name]) // 2)
            for name, value in zip(names, point, strict=True)
        )

    return min(legal, key=off)


def spaces(folder: Path) -> list[Recorded]:
    """Every cache file of a folder, by name."""
    files = sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")])
    if not files:
        raise SystemExit(f"{folder} holds no *.json or *.json.gz file")
    return [read(path) for path in files]


def rendered(point: Point) -> Candidate:
    """A stand-in for the kernel at ``point``."""
    text = json.dumps(dict(point), sort_keys=True)
    return Candidate({"k.py": text}, "k.py", "recorded", genome=dict(point))


def judged(recorded: Recorded, candidate: Candidate) -> Evaluation:
    """Its recorded outcome; the score is the speed-up over the space's median time."""
    assert candidate.genome is not None
    seconds = recorded.time(candidate.genome)
    if seconds is None:
        return Evaluation(candidate.id, Verdict(VerdictKind.CRASH, "recorded"))
    score = recorded.best / seconds
    return Evaluation(candidate.id, Verdict(VerdictKind.ACCEPTED), score=score, evidence=Evidence.MEASURED)


def search(
    recorded: Recorded,
    policy: SelectionPolicy,
    seed: int,
    evaluations: int,
    memory: Memory | None = None,
    window: int = WINDOW,
) -> list[float]:
    """Fraction of the optimum after each paid evaluation.

    The loop's own `Steering` and `PointGenerator`, its window, its retries of repeats and its rule for what
    is told when; without store, processes and clock. Failures are paid for; repeats are free. A search that
    repeats itself 50 times an evaluation in vain is over and keeps its best.
    """
    generator = PointGenerator(recorded.space, rendered)
    steering = Steering(policy, seed, memory=memory)
    known: dict[str, tuple[Candidate, Evaluation]] = {}
    slots: list[tuple[Candidate, Evaluation] | None] = []
    curve: list[float] = []
    best, told = 0.0, 0
    while len(curve) < evaluations and len(slots) < 50 * evaluations:
        sequence = len(slots)
        while told <= sequence - window:
            slot = slots[told]
            if slot is None:
                steering.passed(told)
            else:
                steering.tell(told, *slot)
            told += 1
        order = steering.ask(sequence)
        steering.asked(sequence, order.operator, order.parents)
        candidate = _drawn(generator, order, sequence, seed, known)
        if candidate is None:
            slots.append(None)
            continue
        if candidate.id not in known:
            evaluation = judged(recorded, candidate)
            known[candidate.id] = (candidate, evaluation)
            best = max(best, evaluation.score or 0.0)
            curve.append(best)
        slots.append(known[candidate.id])
    return curve + [best] * (evaluations - len(curve))


def _drawn(
    generator: PointGenerator,
    order: Order,
    sequence: int,
    seed: int,
    known: Mapping[str, tuple[Candidate, Evaluation]],
) -> Candidate | None:
    """New where four attempts find something new, else known, else None."""
    found = None
    for attempt in range(ATTEMPTS):
        context = Proposal(
            SPEC,
            DEVICE,
            sequence,
            seed,
            order.operator,
            tuple(known[parent][0] for parent in order.parents),
            attempt=attempt,
            preference=order.preference,
            experience=order.experience,
            lane=order.lane,
        )
        offered = generator.propose_now(context)
        if not offered:
            break
        found = offered[0]
        if found.id not in known:
            break
    return found


def interval(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float] = statistics.fmean
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic over independent repetitions, percentile method, 2,000 draws."""
    rng = random.Random(0)
    draws = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(2000))
    return draws[49], draws[1949]
