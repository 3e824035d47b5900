"""The surrogate's model: a Gaussian process over genomes, fitted to what was measured."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from attrs import frozen

from kevolve_core.evolve.policies.features import ABSENT

__all__ = ["Array", "Process", "Rows"]

Array = npt.NDArray[np.float64]
_Places = npt.NDArray[np.intp]

#: What two points that differ in half of everything are apart before anything is learned. Estimated.
_DISTANCE = 2.0
#: Of a weight's logarithm around that: a factor of ten either way is nothing unusual. Estimated.
_SPREAD = 1.25
#: Variance of the noise over that of the process, and spread of its logarithm. Estimated.
_NOISE, _NOISE_SPREAD = 1e-3, 1.5
_NOISE_LEAST = 1e-5  # keeps the matrix well conditioned where nothing is noisy
_STEPS = 25  # of the fit; its signs have settled by then (estimated)
_FITTED = 96  # examples the weights are fitted to; the process itself takes all (estimated)


@frozen(eq=False)
class Rows:
    """A table by its distinct values, of which columns hold few: distances are then taken between those, and
    a matrix product brings them to the rows.

    Args:
        values: a column's distinct values, ascending.
        places: columns × rows, which of them a row has.
        flags: rows × all values of all columns, 1 where a row has a value.
    """

    values: tuple[Array, ...]
    places: _Places
    flags: Array

    def __len__(self) -> int:
        return len(self.flags)

    @classmethod
    def of(cls, table: Array) -> Rows:
        """The rows of a table, rows × columns."""
        found = [np.unique(column, return_inverse=True) for column in table.T]
        sizes = [len(values) for values, _ in found]
        places = np.array([where for _, where in found], dtype=np.intp).reshape(len(found), len(table))
        flags = np.zeros((len(table), sum(sizes)))
        starts = np.cumsum([0, *sizes[:-1]], dtype=np.intp)[: len(found)]
        flags[np.arange(len(table)), places + starts[:, None]] = 1.0
        return cls(tuple(values for values, _ in found), places, flags)

    def taken(self, which: _Places) -> Rows:
        """Some of the rows."""
        return Rows(self.values, self.places[:, which], self.flags[which])


class Process:
    """A Gaussian process with the covariance exp(-Σ(aᵢ·|Δrankᵢ| + bᵢ·[xᵢ ≠ yᵢ])): a column counts by how
    far two of its values are apart, by whether they differ at all, or both, as the data say. As a product
    over columns it holds their main effects and all interactions. Ranks among the values seen stand for the
    values, so that 1, 2, 4, 8 and 32, 64, 96, 128 are the same to it, as they are to a tree.

    The weights a and b and the noise maximise the posterior under log-normal priors, whose mean falls with
    the number of columns (Hvarfner et al. 2024, https://arxiv.org/abs/2402.02229), by resilient propagation
    (Riedmiller and Braun 1993, https://doi.org/10.1109/ICNN.1993.298623); mean and variance of the process
    follow in closed form (Rasmussen and Williams 2006, section 2.7). Everything is a function of the
    arguments. Costs grow with the cube of the examples: give it a few hundred at most.

    Args:
        table: examples × columns, as `features.matrix` makes it; at least two examples.
        target: a number an example, all finite.
        noise: prior mean of the noise's variance, as a share of the process's.
    """

    def __init__(self, table: Array, target: Array, *, noise: float = _NOISE) -> None:
        self._rows = Rows.of(table)
        self._center, self._scale = float(target.mean()), float(target.std()) or 1.0
        standard = (target - self._center) / self._scale
        known = self._rows.values
        varied = [n for n, values in enumerate(known) if len(values) > 1]
        usual = _DISTANCE / max(1, len(varied))
        # Of a column of two values, rank and difference are the same: it has one weight, twice as large.
        ordered = [n for n in varied if len(known[n]) > 2]
        prior = np.array([usual] * len(ordered) + [usual if len(known[n]) > 2 else 2 * usual for n in varied])
        weights, self._noise = self._fitted(standard, ordered, varied, np.append(prior, noise))
        self._near = dict(zip(ordered, weights[: len(ordered)], strict=True))
        self._other = dict.fromkeys(
            range(len(known)), usual
        )  # nothing is known of how much the others matter
        self._other.update(zip(varied, weights[len(ordered) :], strict=True))
        covariance = self.covariance(self._rows, self._rows)
        covariance.flat[:: len(table) + 1] += self._noise
        # Of this size, an explicit inverse of the factor costs less than it saves in every later product.
        self._factor: Array = np.linalg.inv(np.linalg.cholesky(covariance))
        self._mean, self._alpha, self._variance = _profiled(self._factor.T @ self._factor, standard)

    def covariance(self, first: Rows, second: Rows) -> Array:
        """Between rows of this process's columns, as a share of its variance and before any evidence."""
        parts = []
        for n, (ours, theirs) in enumerate(zip(first.values, second.values, strict=True)):
            distances = self._other[n] * (ours[:, None] != theirs[None, :])
            if n in self._near:
                known = self._rows.values[n]
                gaps = np.abs(_ranked(ours, known)[:, None] - _ranked(theirs, known)[None, :])
                distances += self._near[n] * gaps
            parts.append(distances[:, second.places[n]])
        apart = first.flags @ np.concatenate(parts) if parts else np.zeros((len(first), len(second)))
        return np.asarray(np.exp(-apart))

    def predicted(self, rows: Rows) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless target at each row."""
        between = self.covariance(rows, self._rows)
        explained = np.square(between @ self._factor.T).sum(axis=1)
        deviation = np.sqrt(self._variance * np.maximum(1.0 - explained, 1e-9))
        return self._located(between @ self._alpha), deviation * self._scale

    def means(self, rows: Rows) -> Array:
        """The mean alone, for less."""
        return self._located(self.covariance(rows, self._rows) @ self._alpha)

    def sampled(self, rows: Rows, draw: np.random.Generator) -> Array:
        """One function from the posterior, at each row: rows that are alike get values that are alike."""
        between = self.covariance(rows, self._rows)
        explained = between @ self._factor.T
        left = self.covariance(rows, rows) - explained @ explained.T
        left.flat[:: len(rows) + 1] += 1e-6
        steps = np.linalg.cholesky(left) @ draw.standard_normal(len(rows))
        return self._located(between @ self._alpha) + self._scale * math.sqrt(self._variance) * steps

    def _located(self, value: Array) -> Array:
        return self._center + self._scale * (self._mean + value)

    def _fitted(
        self, target: Array, ordered: list[int], varied: list[int], usual: Array
    ) -> tuple[Array, float]:
        """The weights of the ordered columns' ranks and the varied columns' differences, and the noise."""
        count = min(len(target), _FITTED)
        if count < len(target):
            at = _spread(len(target), count)
            rows, target = self._rows.taken(at), target[at]
        else:
            rows = self._rows
        first, second = np.triu_indices(count, 1)
        upper, lower = first * count + second, second * count + first
        columns = [_ranked(known := rows.values[n], known)[rows.places[n]] for n in ordered]
        apart = np.array(
            [np.abs(ranks[first] - ranks[second]) for ranks in columns]
            + [rows.places[n][first] != rows.places[n][second] for n in varied]
        ).reshape(len(usual) - 1, len(first))
        prior, spread = np.log(usual), np.full(len(usual), _SPREAD)
        spread[-1] = _NOISE_SPREAD
        log, step, last = prior.copy(), np.full(len(usual), 0.5), np.zeros(len(usual))
        matrix, gradient = np.empty((count, count)), np.empty(len(usual))
        for _ in range(_STEPS):
            weights = np.exp(log)
            shared = np.exp(-(weights[:-1] @ apart))
            matrix.flat[upper] = matrix.flat[lower] = shared
            matrix.flat[:: count + 1] = 1.0 + weights[-1]
            inverse = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
            _, alpha, variance = _profiled(inverse, target)
            pull = (np.outer(alpha, alpha / variance) - inverse).take(upper) * shared
            gradient[:-1] = -weights[:-1] * (apart @ pull)
            gradient[-1] = 0.5 * weights[-1] * (alpha @ alpha / variance - np.trace(inverse))
            sign = np.sign(gradient - (log - prior) / spread**2)
            agrees = sign * last
            step = np.clip(
                np.where(agrees > 0, 1.3 * step, np.where(agrees < 0, 0.5 * step, step)), 0.01, 1.0
            )
            last = np.where(agrees < 0, 0.0, sign)
            log = np.clip(log + last * step, prior - 6.0, prior + 5.0)
            log[-1] = min(max(log[-1], math.log(_NOISE_LEAST)), 0.0)
        weights = np.exp(log)
        return weights[:-1], float(weights[-1])


def _profiled(inverse: Array, target: Array) -> tuple[float, Array, float]:
    """The likeliest mean and variance of the process, and what predictions are made from. The variance counts
    two more observations of the variance of the targets, which matters where there are few."""
    mean = float(inverse.sum(axis=0) @ target / inverse.sum())
    left = target - mean
    alpha = inverse @ left
    return mean, alpha, float((left @ alpha + 2.0) / (len(target) + 2.0))


def _ranked(values: Array, known: Array) -> Array:
    """Ranks from 0 to 1 among the known values, between two of them in proportion; what is absent is in the
    middle, as it is near to none."""
    present = known[known != ABSENT]
    if len(present) < 2:
        return np.full(len(values), 0.5)
    ranks = np.interp(values, present, np.linspace(0.0, 1.0, len(present)))
    return np.where(values == ABSENT, 0.5, ranks)


def _spread(count: int, wanted: int) -> _Places:
    """The first half of what is wanted, and others at even distances: examples come best first."""
    head = wanted // 2
    return np.concatenate([np.arange(head), np.linspace(head, count - 1, wanted - head).astype(np.intp)])
