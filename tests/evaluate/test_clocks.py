"""Times that a worker reports, held against what the parent saw of its requests."""

from __future__ import annotations

from kevolve_core.evaluate.race import Samples, unreported

MS = 1e-3


def samples(candidate: list[float], baseline: list[float], reported: float = 0.2 * MS) -> Samples:
    """``candidate`` and ``baseline`` are seconds a request beyond what was reported."""
    seconds = {"candidate": [reported] * len(candidate), "eager": [reported] * len(baseline)}
    return Samples(seconds, {"candidate": candidate, "eager": baseline})


def test_overhead_like_the_trusted_side_is_believed() -> None:
    assert unreported(samples([0.2 * MS] * 10, [0.15 * MS] * 10), "candidate", ["eager"]) is None


def test_time_that_a_worker_hides_is_found() -> None:
    found = unreported(samples([5 * MS] * 10, [0.15 * MS] * 10), "candidate", ["eager"])
    assert found is not None
    assert found["unexplained_seconds"] == 5 * MS


def test_one_honest_round_does_not_excuse_the_others() -> None:
    hidden = [5 * MS] * 9 + [0.1 * MS]
    assert unreported(samples(hidden, [0.15 * MS] * 10), "candidate", ["eager"]) is not None


def test_a_busy_machine_delays_both_sides() -> None:
    delayed = [4 * MS, 5 * MS, 3 * MS] * 4
    assert unreported(samples(delayed, delayed[::-1]), "candidate", ["eager"]) is None


def test_of_few_rounds_one_undelayed_suffices() -> None:
    assert unreported(samples([9 * MS, 0.2 * MS, 8 * MS], [0.1 * MS] * 3), "candidate", ["eager"]) is None
    assert unreported(samples([9 * MS, 7 * MS, 8 * MS], [0.1 * MS] * 3), "candidate", ["eager"])
