"""The evolution loop, its policies and budgets. Knows no hardware. Start at `run` and `resume`."""

from kevolve_core.evolve.budget import Budget
from kevolve_core.evolve.events import (
    Evaluated,
    Event,
    NewBest,
    PhaseChanged,
    Preparing,
    ProposalFailed,
    Proposed,
    RunFinished,
    RunStarted,
    Subscriber,
)
from kevolve_core.evolve.loop import resume, run
from kevolve_core.evolve.mixing import MixedGenerator
from kevolve_core.evolve.policies import POLICIES, make_policy
from kevolve_core.evolve.result import NOTHING_BETTER, BestAt, RunResult, TrajectoryPoint, collect
from kevolve_core.evolve.session import Metered, SearchSettings, Usage, input_seed
from kevolve_core.evolve.steering import Memory

__all__ = [
    "NOTHING_BETTER",
    "POLICIES",
    "BestAt",
    "Budget",
    "Evaluated",
    "Event",
    "Memory",
    "Metered",
    "MixedGenerator",
    "NewBest",
    "PhaseChanged",
    "Preparing",
    "ProposalFailed",
    "Proposed",
    "RunFinished",
    "RunResult",
    "RunStarted",
    "SearchSettings",
    "Subscriber",
    "TrajectoryPoint",
    "Usage",
    "collect",
    "input_seed",
    "make_policy",
    "resume",
    "run",
]
