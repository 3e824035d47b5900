"""Which model takes a request: the one whose successes come cheapest, as far as the run has shown."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from attrs import frozen

from kevolve_core.llm.config import ModelRef

__all__ = ["Outcome", "choose"]

#: What a prior observation is worth: a model nobody tried counts as half good after one request (Laplace's
#: rule of succession with one pseudo-count each way).
_PRIOR_GOOD, _PRIOR_TRIED = 1.0, 2.0
_EXPLORE = 1.0  # weight of the confidence term; UCB1's own has sqrt(2) (estimated)


@frozen
class Outcome:
    """What became of one proposal.

    Args:
        sequence: of the proposal.
        role: the model was asked as.
        model: who was asked.
        reward: 0 to 1: how much it was worth (see `Scoreboard` in the generator).
        cost: in the unit that the models are compared by (money, else tokens).
    """

    sequence: int
    role: str
    model: ModelRef
    reward: float
    cost: float


def choose(
    models: Sequence[ModelRef], outcomes: Iterable[Outcome], role: str, rng: random.Random
) -> ModelRef:
    """One of ``models`` for a request in ``role``: each is tried once in order, then the highest upper
    confidence bound of reward over expected cost (UCB1, Auer and others 2002, with rewards divided by the
    model's mean cost relative to the cheapest, as in budgeted bandits, Tran-Thanh and others 2012).

    Deterministic in its arguments; ``rng`` breaks ties.
    """
    if len(models) == 1:
        return models[0]
    own = [o for o in outcomes if o.role == role and o.model in models]
    counts = {m: [o for o in own if o.model == m] for m in models}
    untried = [m for m in models if not counts[m]]
    if untried:
        return untried[0]
    costs = {m: max(sum(o.cost for o in done) / len(done), 1e-12) for m, done in counts.items()}
    cheapest = min(costs.values())
    total = len(own)

    def bound(model: ModelRef) -> tuple[float, float]:
        done = counts[model]
        mean = (sum(o.reward for o in done) + _PRIOR_GOOD) / (len(done) + _PRIOR_TRIED)
        wide = mean + _EXPLORE * math.sqrt(math.log(total + 1) / len(done))
        # The square root keeps a good dear model in play beside a cheap poor one (estimated).
        return wide / math.sqrt(costs[model] / cheapest), rng.random()

    return max(models, key=bound)
