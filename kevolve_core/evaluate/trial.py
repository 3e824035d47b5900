"""A `Trial`: one candidate on its way through the stages, and how much is measured of it where."""

from __future__ import annotations

from statistics import median
from typing import Any

from attrs import define, field, frozen

from kevolve_core.errors import WorkerError
from kevolve_core.evaluate.session import Contender, Session
from kevolve_core.evaluate.statistics import weighted_geomean
from kevolve_core.interfaces import Compiler, EvaluationRequest
from kevolve_core.kernelspec import Case
from kevolve_core.model import Artifact, Measurement, Profile

__all__ = ["Plan", "Trial", "median_of", "score"]


@frozen
class Plan:
    """How much is measured where. The seconds (estimated) bound the rounds of one case: no further round
    starts after them, once there are three.

    Args:
        quick_rounds, quick_seconds: against the best baseline; they rank a candidate during search.
        race_rounds, race_seconds: of finalists against every baseline.
        confirm_rounds, confirm_seconds: of the winner in fresh processes.
    """

    quick_rounds: int = 4
    race_rounds: int = 10
    confirm_rounds: int = 20
    quick_seconds: float = 5.0
    race_seconds: float = 10.0
    confirm_seconds: float = 20.0


@define
class Trial:
    """One candidate on its way through the stages, and what was learned so far."""

    request: EvaluationRequest
    session: Session
    compiler: Compiler
    plan: Plan
    memory: dict[str, Any]  # facts of the spec shared between trials: best baselines, floors, small cases
    artifacts: dict[str, Artifact] = field(factory=dict)
    code: str = ""  # what it was compiled to, see `code_key`
    measurements: list[Measurement] = field(factory=list)
    library_calls: tuple[str, ...] = ()
    profile: Profile | None = None

    @property
    def lane(self) -> str:
        return "candidate"

    def contender(self, case: Case) -> Contender:
        return self.session.candidate(self.request.candidate, self.artifacts[case.name], case, lane=self.lane)


def score(trial: Trial) -> float | None:
    """Weighted geomean over timed cases of the paired speed-up over the best baseline, latest phase first."""
    latest = {m.case: m for m in trial.measurements}
    values, weights = [], []
    for case in trial.request.spec.timed_cases:
        m = latest.get(case.name)
        ratio = m.best_ratio if m is not None else None
        if ratio is None:
            return None
        values.append(ratio.value)
        weights.append(case.weight)
    return weighted_geomean(values, weights) if values else None


def median_of(values: tuple[float, ...]) -> float:
    """The median. Raises WorkerError for no samples."""
    if not values:
        raise WorkerError("no samples were taken")
    return float(median(values))
