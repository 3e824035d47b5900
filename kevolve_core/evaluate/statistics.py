"""Statistics of paired timings: medians and percentile-bootstrap intervals (Efron & Tibshirani, 1993, ch.
13)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kevolve_core.model import Ratio

__all__ = ["paired_ratio", "weighted_geomean"]

_RESAMPLES = 2000
_LEVEL = 0.95


def paired_ratio(baseline: Sequence[float], candidate: Sequence[float], seed: int = 0) -> Ratio:
    """Median over rounds of baseline/candidate seconds, and its 95 % bootstrap interval.

    Rounds are the unit of resampling, since both sides of one round saw the same machine. Raises ValueError
    for sequences of different or zero length.
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"paired samples differ in number: {len(baseline)} and {len(candidate)}")
    ratios = np.asarray(baseline, dtype=np.float64) / np.asarray(candidate, dtype=np.float64)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(ratios), size=(_RESAMPLES, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.quantile(medians, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def weighted_geomean(values: Sequence[float], weights: Sequence[float]) -> float:
    """exp of the weighted mean of logs; values must be positive, weights not all zero."""
    total = sum(weights)
    return math.exp(sum(w * math.log(v) for v, w in zip(values, weights, strict=True)) / total)
