"""A stored run as trials: what was proposed, what came of it, and what its choices were."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from kevolve_core.model import Candidate, Evaluation
from kevolve_core.store import RunStore

__all__ = ["Cure", "Effect", "Trial", "choices", "cures", "effects", "trials"]

_SAMPLES = 3  # candidates with and without a choice before its effect is stated (estimated)
_NOTABLE = 0.1  # relative change of the mean score worth a line (estimated)


@frozen
class Trial:
    """One distinct candidate of a search and its evaluation."""

    sequence: int
    candidate: Candidate
    evaluation: Evaluation
    choices: Mapping[str, str] = field(factory=dict, hash=False)

    @property
    def score(self) -> float | None:
        return self.evaluation.score if self.evaluation.accepted else None


@frozen
class Effect:
    """What a choice did: geometric mean of scores with it over that without it, and of how many."""

    choice: str
    value: str
    ratio: float
    count: int
    failures: int


@frozen
class Cure:
    """A failed candidate and the accepted one made from it."""

    failed: Trial
    cured: Trial


def trials(run: RunStore) -> tuple[Trial, ...]:
    """The distinct, evaluated candidates of a run's search, in order. Loads each of them."""
    found = []
    for step in run.steps():
        row = step.evaluation
        if row is None or row.reused_from is not None:
            continue
        evaluation = run.evaluation("search", row.sequence)
        if evaluation is not None:
            candidate = run.candidate(row.candidate_id)
            found.append(Trial(row.sequence, candidate, evaluation, choices(candidate.genome)))
    return tuple(found)


def choices(genome: Mapping[str, Any] | None) -> dict[str, str]:
    """A genome as flat choices (``steps.row.tile`` -> ``512``); {} where there is none."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value):
                walk(value[key], f"{path}.{key}" if path else str(key))
        elif isinstance(value, (str, int, float, bool)):
            found[path] = str(value)
        elif isinstance(value, Sequence):
            found[path] = ", ".join(map(str, value)) or "none"

    walk({key: value for key, value in (genome or {}).items() if key != "generator"}, "")
    return found


def effects(found: Iterable[Trial]) -> tuple[Effect, ...]:
    """Choices whose candidates did notably better, worse, or always failed; the strongest first."""
    groups: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    total = [trial for trial in found if trial.choices]
    for trial in total:
        for choice, value in trial.choices.items():
            groups[choice, value].append(trial)
    stated = []
    for (choice, value), having in groups.items():
        lacking = [trial for trial in total if trial.choices.get(choice, value) != value]
        if len(having) < _SAMPLES or len(lacking) < _SAMPLES:
            continue
        failures = sum(trial.score is None for trial in having)
        mean, other = _mean(having), _mean(lacking)
        if other is None or (mean is None and any(trial.score is None for trial in lacking)):
            continue
        ratio = 0.0 if mean is None else mean / other
        if abs(ratio - 1) > _NOTABLE:
            stated.append(Effect(choice, value, ratio, len(having), failures))
    return tuple(sorted(stated, key=lambda e: (-abs(math.log(e.ratio or 1e-3)), e.choice, e.value)))


def cures(found: Sequence[Trial]) -> tuple[Cure, ...]:
    """Accepted candidates with a failed parent, in order."""
    by_id = {trial.candidate.id: trial for trial in found}
    return tuple(
        Cure(parent, trial)
        for trial in found
        if trial.evaluation.accepted
        for name in trial.candidate.parents
        if (parent := by_id.get(name)) is not None and not parent.evaluation.accepted
    )


def _mean(found: Iterable[Trial]) -> float | None:
    scores = [trial.score for trial in found if trial.score is not None and trial.score > 0]
    return math.exp(sum(map(math.log, scores)) / len(scores)) if scores else None
