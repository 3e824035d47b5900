"""The surrogate's model: a random forest that says how likely a point is among the good ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from kevolve_core.errors import ConfigError
from kevolve_core.evolve.policies.features import Features, matrix

__all__ = ["Forest", "require"]


class Forest:
    """Bootstrapped trees on good (1) and bad (0) examples (Breiman 2001, https://doi.org/10.1023/A:1010933404324).

    Least squares on labels 0 and 1 splits as Gini's criterion does, and a leaf's mean is its share of good
    ones. The trees are scikit-learn's, grown one by one: on a few hundred rows its own forest spends four
    times as long on bookkeeping.

    Args:
        rows: features of the examples.
        labels: 1 or 0 a row.
        weights: how much a row counts, > 0.
        trees: how many.
        seed: of bootstrap and splits; equal arguments give an equal forest.

    Raises:
        ConfigError: scikit-learn is not installed.
    """

    def __init__(
        self,
        rows: Sequence[Features],
        labels: Sequence[float],
        weights: Sequence[float],
        *,
        trees: int,
        seed: int,
    ) -> None:
        self._columns = sorted({name for row in rows for name in row})
        table = matrix(rows, self._columns)
        target, weight = np.asarray(labels, dtype=np.float64), np.asarray(weights, dtype=np.float64)
        draw = np.random.default_rng(seed)
        count = len(rows)
        self._trees: list[Any] = []
        for number in range(trees):
            times = np.bincount(draw.integers(0, count, count), minlength=count)
            kept = np.flatnonzero(times)
            self._trees.append(
                _grown(table[kept], target[kept], (weight * times)[kept], (seed + number) % 2**31)
            )

    def likelihood(self, rows: Sequence[Features], rng: random.Random) -> npt.NDArray[np.float64]:
        """How likely each row is a good one, by a random half of the trees: proposals made before the others'
        results are in then differ where the trees do (Thompson's idea, by bootstrap)."""
        table = matrix(rows, self._columns)
        chosen = rng.sample(self._trees, (len(self._trees) + 1) // 2)
        total = np.zeros(len(rows))
        for tree in chosen:
            total += tree.predict(table)[:, 0]
        return total / len(chosen)


def require() -> None:
    """See that scikit-learn is there, without importing it: that takes seconds.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("sklearn") is None:
        raise ConfigError(
            "the surrogate policy needs scikit-learn",
            mend="pip install 'kevolve[surrogate]', or choose another policy",
        )


def _grown(table: Any, target: Any, weight: Any, seed: int) -> Any:
    from sklearn.tree import DecisionTreeRegressor

    # Breiman's choices: a third of the columns a split (for regression), single rows as leaves (for classes).
    tree = DecisionTreeRegressor(max_features=1 / 3, min_samples_leaf=1, random_state=seed)
    tree.fit(table, target, sample_weight=weight, check_input=False)
    return tree.tree_
