"""Ratios of paired samples."""

from __future__ import annotations

import random

import pytest

from kevolve_core.evaluate.statistics import paired_ratio, weighted_geomean


def test_a_constant_ratio_has_no_spread() -> None:
    ratio = paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (ratio.value, ratio.low, ratio.high, ratio.samples) == (2.0, 2.0, 2.0, 3)


def test_pairing_removes_what_both_sides_share() -> None:
    rng = random.Random(0)
    drift = [rng.uniform(1, 10) for _ in range(30)]
    ratio = paired_ratio([1.5 * d for d in drift], drift)
    assert (ratio.low, ratio.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    covered = 0
    for trial in range(200):
        baseline = [1.2 * rng.lognormvariate(0, 0.2) for _ in range(25)]
        candidate = [rng.lognormvariate(0, 0.2) for _ in range(25)]
        ratio = paired_ratio(baseline, candidate, seed=trial)
        covered += ratio.low <= 1.2 <= ratio.high
    assert 0.88 <= covered / 200 <= 0.99


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        paired_ratio([1.0], [1.0, 2.0])


def test_the_geomean_is_weighted() -> None:
    assert weighted_geomean([1.0, 8.0], [2.0, 1.0]) == pytest.approx(2.0)
