"""Search led by a surrogate: a model of what was measured chooses what is measured next."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from kevolve_core.evolve.policies.elites import draw, score_of
from kevolve_core.evolve.policies.examples import Example, Examples
from kevolve_core.evolve.policies.features import Features, features_of, matrix
from kevolve_core.evolve.policies.gaussian import Array, Process, Rows
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.space import Preference

__all__ = ["SurrogatePolicy"]

_SEEN = 1024  # genomes remembered as tried; the loop catches older repeats (estimated)
_LEAST = 4  # measured examples below which there is nothing to learn (estimated)
_SHORTLIST = 128  # genomes that a function is sampled at: its cost grows with their cube (estimated)
_FAILING_NOISE = 1e-2  # prior noise of what fails: more of it is luck than of times (estimated)
_LIKELY = 0.8  # a genome is passed over at random unless it works with at least this chance (estimated)

_erfc = np.frompyfunc(math.erfc, 1, 1)  # numpy has none


class _Fitted:
    """Two processes: the logarithm of the time, and (once something failed) what fails."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._columns = sorted({name for example in examples for name in example.features})
        table = matrix([example.features for example in examples], self._columns)
        losses = np.array([example.loss for example in examples])
        works = np.isfinite(losses)
        self._best = float(losses[works].min())
        self._losses = Process(table[works], losses[works])
        failed = np.where(works, 0.0, 1.0)
        self._failed = None if works.all() else Process(table, failed, noise=_FAILING_NOISE)

    def worth(self, rows: Sequence[Features], numbers: np.random.Generator) -> Array:
        """Thompson's rule on a shortlist: the rows of the highest expected improvement, in the order that one
        function sampled from the posterior puts them in. The others follow by expected improvement."""
        pool = Rows.of(matrix(rows, self._columns))
        mean, deviation = self._losses.predicted(pool)
        works = np.ones(len(rows)) if self._failed is None else 1.0 - self._failed.means(pool)
        gain = _expected_improvement(mean, deviation, self._best) * np.clip(works, 0.01, 1.0)
        order = np.argsort(-gain, kind="stable")
        short, rest = order[:_SHORTLIST], order[_SHORTLIST:]
        loss = self._losses.sampled(pool.taken(short), numbers)
        risky = works[short] < _LIKELY * numbers.random(len(short))
        ranked = short[np.lexsort((loss, risky))]
        worth = np.empty(len(rows))
        worth[np.concatenate([ranked, rest])] = -np.arange(len(rows), dtype=np.float64)
        return worth


class _Model:
    """A fixed set of examples, fitted when it is first asked, from any thread."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._fitted: _Fitted | None = None
        self._lock = threading.Lock()

    def fitted(self) -> _Fitted:
        with self._lock:
            if self._fitted is None:
                self._fitted = _Fitted(self._examples)
            return self._fitted

    def __getstate__(self) -> dict[str, Any]:
        return {"_examples": self._examples}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _fitted=None, _lock=threading.Lock())


@frozen
class _Ranking:
    """What the policy thought of genomes when a proposal was asked for."""

    model: _Model
    seen: frozenset[frozenset[tuple[str, float]]]
    seed: int
    sequence: int

    def __call__(self, genomes: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        rows = [features_of(genome) for genome in genomes]
        fresh = [n for n, row in enumerate(rows) if frozenset(row.items()) not in self.seen]
        worth = [-math.inf] * len(rows)
        if fresh:
            numbers = np.random.default_rng(draw("function", self.seed, self.sequence).getrandbits(64))
            values = self.model.fitted().worth([rows[n] for n in fresh], numbers)
            for n, value in zip(fresh, values, strict=True):
                worth[n] = float(value)
        return worth


class SurrogatePolicy:
    """A model of everything told says how fast a genome will be, how sure that is, and whether it will fail;
    proposals are those it likes best, near the best so far or anywhere.

    The model is a pair of Gaussian processes (`gaussian.Process`), one for the logarithm of the score, one
    for failures. Each proposal follows a function of its own, sampled from the posterior (Thompson 1933,
    https://doi.org/10.1093/biomet/25.3-4.285): those made before the others' results are in then differ as
    far as the model is unsure.

    After ``drafts`` drafts, a share ``explore`` of the proposals asks for another draft, where a generator
    offers what no parent leads to (another language, another partition), and all others for a mutation of the
    top ``width`` candidates together (a random one first, the better the likelier); of either, the generator
    takes what `preference` says. One that ignores preferences is led by the parents alone.

    The model is renewed after every ``period`` tells and fitted when it is first asked. Memory and the work
    of a call are bounded.

    Args:
        (all): see above. Defaults were chosen on recorded and on synthetic tuning spaces: see
            benchmarks/search_replay.py.
    """

    name = "surrogate"

    def __init__(self, *, drafts: int = 16, explore: float = 0.05, width: int = 8, period: int = 4) -> None:
        self._drafts, self._explore, self._width, self._period = drafts, explore, width, period
        self._examples = Examples()
        self._seen: OrderedDict[frozenset[tuple[str, float]], None] = OrderedDict()
        self._told = 0
        self._model: _Model | None = None

    def ask(self, sequence: int, seed: int) -> tuple[str, tuple[str, ...]]:
        rng = draw(self.name, seed, sequence)
        best = self._examples.best
        if sequence < self._drafts or not best or rng.random() < self._explore:
            return "draft", ()
        near = [example.candidate_id for example in best[: self._width]]
        first = near[min(rng.randrange(len(near)), rng.randrange(len(near)))]
        return "mutate", (first, *(other for other in near if other != first))

    def preference(self, sequence: int, seed: int) -> Preference | None:
        """See `interfaces.Preferring`; None while the first drafts go on or too little was measured."""
        if self._model is None or sequence < self._drafts:
            return None
        return _Ranking(self._model, frozenset(self._seen), seed, sequence)

    def asked(self, sequence: int, operator: str, parents: tuple[str, ...]) -> None:
        """Nothing to note: proposals in flight differ by the functions that choose them."""

    def tell(self, sequence: int, candidate: Candidate, evaluation: Evaluation) -> None:
        self._told += 1
        if candidate.genome is not None:
            self._learn(sequence, candidate, candidate.genome, evaluation)
        if self._told % self._period == 0 and len(self._examples.best) >= _LEAST:
            self._model = _Model(self._examples.all())

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
            return  # accepted but not timed: neither fast nor failed
        loss = -math.log(score) if score is not None and score > 0 else math.inf
        self._examples.add(Example(loss, sequence, candidate.id, features))


def _expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Below ``best``, of normal variables (Jones et al. 1998, https://doi.org/10.1023/A:1008306431147)."""
    gain = (best - mean) / deviation
    below = 0.5 * np.asarray(_erfc(-gain / math.sqrt(2.0)), dtype=np.float64)
    density = np.exp(-0.5 * np.square(gain)) / math.sqrt(2.0 * math.pi)
    return np.asarray(deviation * (density + gain * below), dtype=np.float64)
