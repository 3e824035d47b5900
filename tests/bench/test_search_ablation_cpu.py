"""The ablation on kernels of a CPU: what it searches, and how it compares."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import measured_searches as searches
import measured_space as space
import pytest

from kevolve_core.space import Constraint, Parameter, Space


def test_a_narrowed_space_keeps_the_default_the_order_and_the_constraints() -> None:
    rule = Constraint("scalar code has one lane", lambda p: p["lanes"] != 16 or p["unroll"] == 1)
    whole = Space(
        (
            Parameter("lanes", (4, 8, 16, 32), 8),
            Parameter("unroll", (1, 2, 4, 8), 2),
            Parameter("tile", (0, 64), 64),
        ),
        (rule,),
        ({"unroll": 8},),
    )
    small = space.narrowed(whole)
    assert [p.choices for p in small.parameters] == [(4, 8, 16), (1, 2, 4), (64,)]
    assert (small.default(), small.constraints, small.starts) == (whole.default(), (rule,), ())


def test_split_is_held_against_the_better_of_the_others_seed_by_seed() -> None:
    finals = {"off": [0.5, 0.6, 0.7], "warm": [0.9, 0.8, 0.7], "split": [0.8, 0.7, 0.6]}
    found = searches.difference(finals)
    assert found["better"] == "warm"
    assert [found["difference"], found["low"], found["high"]] == pytest.approx([-0.1, -0.1, -0.1])


def test_scores_in_the_same_order_correlate_fully() -> None:
    assert searches.correlation([(1.0, 10.0), (3.0, 11.0), (2.0, 10.5)]) == pytest.approx(1.0)
    assert searches.correlation([(1.0, 11.0), (3.0, 10.0), (2.0, 10.5)]) == pytest.approx(-1.0)


def test_time_that_is_up_keeps_what_was_measured(tmp_path: Path) -> None:
    from kevolve_core.model import Evaluation, Verdict, VerdictKind

    made = Evaluation("0" * 16, Verdict(VerdictKind.ACCEPTED), score=1.5)
    space.Book(tmp_path / "kept.jsonl", 0.0).add("softmax", "space", made)
    again = space.Book(tmp_path / "kept.jsonl", 0.0)
    assert again.of("softmax", "space") == {made.candidate_id: made}
    with pytest.raises(space.TimeUpError):
        again.check_time()


def test_over_policies_split_is_held_against_one_use_of_memory() -> None:
    rows = [
        {"memory": mode, "by_seed": by_seed}
        for mode, of in {
            "off": ([0.5, 0.5], [0.7, 0.7]),
            "warm": ([0.4, 0.4], [0.6, 0.6]),
            "split": ([0.6, 0.6], [0.8, 0.8]),
        }.items()
        for by_seed in of
    ]
    found = searches.pooled(rows)
    assert found["better"] == "off"
    assert [found["difference"], found["low"], found["high"]] == pytest.approx([0.1, 0.1, 0.1])


def test_the_better_of_two_equal_uses_of_memory_does_not_flatter_by_its_luck() -> None:
    # Off and warm are the same but for luck: the higher of their means would put split at -0.1.
    finals = {"off": [1.0, 0.8, 0.8], "warm": [0.8, 1.0, 0.8], "split": [0.8667, 0.8667, 0.8667]}
    found = searches.difference(finals)
    assert found["difference"] == pytest.approx(0.8667 - statistics.fmean([0.8, 0.8, 0.8]))
    assert searches.judgement(found) == "no worse"


def test_a_difference_is_worse_only_where_its_interval_says_so() -> None:
    assert searches.judgement({"difference": -0.1, "high": 0.01}) == "no worse, within the interval"
    assert searches.judgement({"difference": -0.1, "high": -0.01}) == "worse"
