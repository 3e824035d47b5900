"""Search led by a likelihood-free classifier surrogate."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from kevolve_core.evolve.policies.elites import draw, score_of
from kevolve_core.evolve.policies.examples import Example, Examples, labelled
from kevolve_core.evolve.policies.features import features_of
from kevolve_core.evolve.policies.forest import Forest, require
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.space import Preference

__all__ = ["SurrogatePolicy"]

_SEEN = 1024  # genomes remembered as tried; the loop catches older repeats (estimated)
_LEAST = 8  # measured examples below which there is nothing to learn (estimated)


class _Model:
    """A forest over a fixed set of examples, grown when it is first asked, from any thread."""

    def __init__(self, examples: Sequence[Example], good: float, trees: int, stamp: int) -> None:
        self._examples, self._good, self._trees, self._stamp = examples, good, trees, stamp
        self._forest: Forest | None = None
        self._lock = threading.Lock()

    def forest(self, seed: int) -> Forest:
        with self._lock:
            if self._forest is None:
                labels, weights = labelled(self._examples, self._good)
                rows = [example.features for example in self._examples]
                of = draw("forest", seed, self._stamp).getrandbits(31)
                self._forest = Forest(rows, labels, weights, trees=self._trees, seed=of)
            return self._forest

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"_lock", "_forest"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _forest=None, _lock=threading.Lock())


@frozen
class _Ranking:
    """What the policy thought of genomes when a proposal was asked for."""

    model: _Model
    seen: frozenset[frozenset[tuple[str, float]]]
    seed: int
    sequence: int

    def __call__(self, genomes: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        rng = draw("trees", self.seed, self.sequence)
        rows = [features_of(genome) for genome in genomes]
        worth = self.model.forest(self.seed).likelihood(rows, rng)
        return [
            -math.inf if frozenset(row.items()) in self.seen else float(value)
            for row, value in zip(rows, worth, strict=True)
        ]


class SurrogatePolicy:
    """A classifier learns from everything told which genomes are good; proposals are those it likes best,
    near the best so far or anywhere.

    After ``drafts`` drafts, a share ``explore`` of the proposals asks for a draft, and the rest for a
    mutation of the top ``width`` candidates together (a random one first, the better the likelier); the
    generator chooses by `preference`. A share ``blind`` are mutations without a preference: they correct a
    model that is sure of a mistake. A generator that ignores preferences is led by the parents alone.

    The model is renewed after every ``period`` tells and grown when it is first asked. Memory and the work of
    a call are bounded.

    Args:
        good: share of the measured that counts as good.
        trees: of the forest.
        (the others): see above. Defaults were chosen on recorded tuning
            spaces: see benchmarks/search_replay.py.

    Raises:
        ConfigError: scikit-learn is not installed.
    """

    name = "surrogate"

    def __init__(
        self,
        *,
        drafts: int = 16,
        explore: float = 0.1,
        blind: float = 0.2,
        width: int = 8,
        good: float = 0.15,
        trees: int = 32,
        period: int = 4,
    ) -> None:
        require()
        self._drafts, self._explore, self._blind, self._width = drafts, explore, blind, width
        self._good, self._trees, self._period = good, trees, period
        self._examples = Examples()
        self._seen: OrderedDict[frozenset[tuple[str, float]], None] = OrderedDict()
        self._told = 0
        self._model: _Model | None = None

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        rng = draw(self.name, seed, sequence)
        best, kind = self._examples.best, rng.random()
        if sequence < self._drafts or not best or kind < self._explore:
            return "draft", ()
        near = [example.candidate_id for example in best[: self._width]]
        first = near[min(rng.randrange(len(near)), rng.randrange(len(near)))]
        return "mutate", (first, *(other for other in near if other != first))

    def preference(self, sequence: int, seed: int) -> Preference | None:
        """See `interfaces.Preferring`; None while the drafts go on or too little was measured."""
        kind = draw(self.name, seed, sequence).random()
        if sequence < self._drafts or self._model is None or kind >= 1.0 - self._blind:
            return None
        return _Ranking(self._model, frozenset(self._seen), seed, sequence)

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: proposals in flight differ by the trees that choose them."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        self._told += 1
        if candidate.genome is not None:
            self._learn(sequence, candidate, candidate.genome, evaluation)
        if self._told % self._period == 0 and len(self._examples.best) >= _LEAST:
            self._model = _Model(self._examples.all(), self._good, self._trees, self._told)

    def _learn(
        self, sequence: int, candidate: Candidate, genome: Mapping[str, Any], evaluation: Evaluation
    ) -> None:
        features = features_of(genome)
        key = frozenset(features.items())
        self._seen.pop(key, None)
        self._seen[key] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        score = score_of(evaluation)
        if score is None and evaluation.accepted:
            return  # accepted but not timed: neither good nor bad
        loss = -math.log(score) if score is not None and score > 0 else math.inf
        self._examples.add(Example(loss, sequence, candidate.id, features))
