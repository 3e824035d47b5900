"""The surrogate: what it learns, what it ranks, and that it costs the same at any population."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from evolve_fakes import DEVICE, SPEC

from kevolve_core.evolve.points import PointGenerator
from kevolve_core.evolve.policies import SurrogatePolicy, make_policy
from kevolve_core.evolve.policies.examples import Example, Examples
from kevolve_core.evolve.policies.features import ABSENT, features_of, matrix
from kevolve_core.evolve.policies.gaussian import Array, Process, Rows
from kevolve_core.interfaces import Proposal
from kevolve_core.model import Candidate, Evaluation, Verdict, VerdictKind
from kevolve_core.space import Constraint, Parameter, Space

SPACE = Space(
    tuple(Parameter(name, (1, 2, 4, 8, 16), 1) for name in "abcd"),
    (Constraint("a·b ≤ 64", lambda point: bool(point["a"] * point["b"] <= 64)),),
)


def kernel(point: Mapping[str, Any]) -> Candidate:
    return Candidate({"k.py": json.dumps(dict(point))}, "k.py", "fake", genome=dict(point))


def score(point: Mapping[str, Any]) -> float | None:
    """A needle that its neighbours point to; large ``c`` fails."""
    if point["c"] == 16:
        return None
    return 1.0 / (1 + abs(math.log2(point["a"]) - 3) + abs(math.log2(point["b"]) - 2) + math.log2(point["d"]))


def outcome(one: Candidate) -> Evaluation:
    assert one.genome is not None
    value = score(one.genome)
    kind = VerdictKind.CRASH if value is None else VerdictKind.ACCEPTED
    return Evaluation(one.id, Verdict(kind), score=value)


def told(count: int, **options: Any) -> SurrogatePolicy:
    policy = SurrogatePolicy(**options)
    rng = random.Random(0)
    for sequence in range(count):
        one = kernel(SPACE.sample(rng))
        policy.tell(sequence, one, outcome(one))
    return policy


def guided(policy: SurrogatePolicy, start: int = 1000) -> int:
    return next(n for n in itertools.count(start) if policy.preference(n, 0) is not None)


def evaluations_to_best(name: str, seed: int) -> int:
    """Evaluations until the optimum is found by ``name``, at most 300."""
    policy, generator = make_policy(name), PointGenerator(SPACE, kernel)
    known: dict[str, Candidate] = {}
    for sequence in range(300):
        operator, parents = policy.ask(sequence, seed)
        preference = policy.preference(sequence, seed) if isinstance(policy, SurrogatePolicy) else None
        for attempt in range(4):
            context = Proposal(
                SPEC, DEVICE, sequence, seed, operator, tuple(known[p] for p in parents),
                attempt=attempt, preference=preference,
            )  # fmt: skip
            offered = generator.propose_now(context)
            if offered and offered[0].id not in known:
                known[offered[0].id] = offered[0]
                policy.tell(sequence, offered[0], outcome(offered[0]))
                break
        if outcome(next(reversed(known.values()))).score == 1.0:
            break
    return len(known)


def test_it_finds_the_optimum_in_half_the_evaluations_of_random_search() -> None:
    seeds = range(3)
    ours = sum(evaluations_to_best("surrogate", seed) for seed in seeds)
    control = sum(evaluations_to_best("random", seed) for seed in seeds)
    assert 2 * ours < control


def test_failures_are_ranked_below_what_works() -> None:
    policy = told(120)
    sequence = guided(policy)
    preference = policy.preference(sequence, 0)
    assert preference is not None
    worth = preference([{"a": 8, "b": b, "c": c, "d": 4} for b in (1, 2, 4, 8) for c in (1, 2, 4, 16)])
    works = [value for n, value in enumerate(worth) if n % 4 != 3 and value > -math.inf]
    fails = [value for n, value in enumerate(worth) if n % 4 == 3 and value > -math.inf]
    assert len(fails) >= 2
    assert max(fails) < min(works)


def test_what_was_tried_is_never_preferred() -> None:
    policy = told(40)
    one = kernel(SPACE.sample(random.Random(0)))
    preference = policy.preference(guided(policy), 0)
    assert preference is not None
    assert list(preference([one.genome or {}])) == [-math.inf]


def test_a_preference_does_not_change_with_later_tells() -> None:
    policy = told(40)
    preference = policy.preference(guided(policy), 0)
    points = [SPACE.sample(random.Random(n)) for n in range(500, 540)]
    assert preference is not None
    before = list(preference(points))
    for n in range(40):
        one = kernel(points[n])
        policy.tell(100 + n, one, outcome(one))
    assert list(preference(points)) == before


def test_a_copy_that_was_told_the_same_prefers_the_same() -> None:
    points = [SPACE.sample(random.Random(n)) for n in range(500, 540)]
    first, second = told(60), copy.deepcopy(told(60))
    sequence = guided(first)
    one, other = first.preference(sequence, 3), second.preference(sequence, 3)
    assert one is not None
    assert other is not None
    assert list(one(points)) == list(other(points))


def test_a_pickled_preference_prefers_the_same() -> None:
    policy = told(60)
    points = [SPACE.sample(random.Random(n)) for n in range(500, 540)]
    preference = policy.preference(guided(policy), 3)
    assert preference is not None
    assert list(pickle.loads(pickle.dumps(preference))(points)) == list(preference(points))


def test_a_pickled_policy_goes_on_as_it_would_have() -> None:
    points = [SPACE.sample(random.Random(n)) for n in range(500, 540)]
    first = told(61)
    second = pickle.loads(pickle.dumps(first))
    for policy in (first, second):
        one = kernel(points[0])
        policy.tell(61, one, outcome(one))
    sequence = guided(first)
    assert first.ask(sequence, 1) == second.ask(sequence, 1)
    ours, theirs = first.preference(sequence, 1), second.preference(sequence, 1)
    assert ours is not None
    assert theirs is not None
    assert list(ours(points)) == list(theirs(points))


def test_proposals_in_flight_follow_different_functions() -> None:
    policy = told(60)
    points = [SPACE.sample(random.Random(n)) for n in range(500, 560)]
    preferences = [policy.preference(sequence, 0) for sequence in range(1000, 1010)]
    judgements = {tuple(preference(points)) for preference in preferences if preference is not None}
    assert len(judgements) > 1


def test_a_pool_larger_than_the_shortlist_is_ranked_throughout() -> None:
    policy = told(60)
    points = list(
        {tuple(p.values()): p for n in range(500) if (p := SPACE.sample(random.Random(n)))}.values()
    )
    preference = policy.preference(guided(policy), 0)
    assert preference is not None
    worth = [value for value in preference(points) if value > -math.inf]
    assert len(worth) > 200
    assert len(set(worth)) == len(worth)


def test_it_says_nothing_before_it_knows_something() -> None:
    assert [SurrogatePolicy().preference(n, 0) for n in range(40)] == [None] * 40


def test_what_no_example_has_is_ranked_too() -> None:
    """Genomes of another partition have other steps; those of another generator share no name at all."""
    policy = told(40)
    preference = policy.preference(guided(policy), 0)
    assert preference is not None
    worth = preference([{"a": 8, "b": 4, "c": 1}, {"a": 8, "mode": "new", "z": 3}, {"other": [1, 2]}, {}])
    assert all(math.isfinite(value) for value in worth)


def test_equal_genomes_of_different_sources_are_learned_from() -> None:
    policy, point = SurrogatePolicy(), {"a": 8, "b": 4, "c": 1, "d": 1}
    for n in range(40):
        one = Candidate({"k.py": str(n)}, "k.py", "fake", genome=point)
        policy.tell(n, one, Evaluation(one.id, Verdict(VerdictKind.ACCEPTED), score=1.0))
    preference = policy.preference(guided(policy), 0)
    assert preference is not None
    assert math.isfinite(preference([{**point, "d": 2}])[0])


def test_while_nothing_works_it_drafts() -> None:
    policy = SurrogatePolicy()
    for n in range(40):
        one = kernel({"a": n, "b": 1, "c": 1, "d": 1})
        policy.tell(n, one, Evaluation(one.id, Verdict(VerdictKind.CRASH)))
    assert [policy.ask(n, 0) for n in range(40, 60)] == [("draft", ())] * 20
    assert [policy.preference(n, 0) for n in range(40, 60)] == [None] * 20


def test_what_it_keeps_is_bounded() -> None:
    policy = SurrogatePolicy(period=10**9)
    rng = random.Random(0)
    sizes = []
    for n in range(3000):
        one = kernel({name: rng.randrange(10**6) for name in "ab"})
        kind = VerdictKind.CRASH if n % 5 == 0 else VerdictKind.ACCEPTED
        policy.tell(n, one, Evaluation(one.id, Verdict(kind), score=None if n % 5 == 0 else rng.random()))
        if n in {1999, 2999}:
            sizes.append((len(policy._examples), len(policy._seen)))
    assert sizes == [(256, 1024)] * 2


def test_a_candidate_measured_again_counts_with_the_mean() -> None:
    examples = Examples()
    for loss in (1.0, 2.0, 3.0):
        examples.add(Example(loss, 0, "one", {}))
    examples.add(Example(1.5, 1, "other", {}))
    assert [(e.candidate_id, e.loss) for e in examples.best] == [("other", 1.5), ("one", 2.0)]


def test_genomes_become_numbers() -> None:
    genome = {"x": 4, "on": True, "mode": "fast", "steps": {"m": {"tile": 8}}, "apart": [["a", "b"]]}
    features = features_of(genome)
    assert features == {
        "/x": 4.0,
        "/on": 1.0,
        "/mode='fast'": 1.0,
        "/steps/m/tile": 8.0,
        "/apart=['a', 'b']": 1.0,
    }
    assert matrix([features, {}], ["/x", "/on"]).tolist() == [[4.0, 1.0], [-1.0, -1.0]]


def column(*values: float) -> Array:
    return np.array(values, dtype=np.float64)[:, None]


def test_a_process_goes_through_what_was_measured_and_is_unsure_elsewhere() -> None:
    table, target = column(1, 2, 4, 8, 32, 64), np.array([3.0, 2.0, 1.0, 2.0, 4.0, 5.0])
    process = Process(table, target)
    mean, deviation = process.predicted(Rows.of(table))
    assert np.abs(mean - target).max() < 0.2
    between, unsure = process.predicted(Rows.of(column(16)))
    assert 2.0 < between[0] < 4.0
    assert unsure[0] > deviation.max()
    assert process.means(Rows.of(column(16))) == pytest.approx(between)


def test_a_process_learns_which_columns_matter() -> None:
    rng = random.Random(0)
    rows = [[float(rng.randrange(8)), float(rng.randrange(8))] for _ in range(40)]
    table = np.array(rows)
    process = Process(table, table[:, 0] ** 2)
    here = Rows.of(np.array([[3.0, 3.0]]))
    matters = process.covariance(here, Rows.of(np.array([[6.0, 3.0]])))
    does_not = process.covariance(here, Rows.of(np.array([[3.0, 6.0]])))
    assert matters[0, 0] < 0.9 < does_not[0, 0]


def test_sampled_functions_have_the_posterior_s_mean_and_deviation() -> None:
    table, target = column(1, 2, 4, 8, 32, 64), np.array([3.0, 2.0, 1.0, 2.0, 4.0, 5.0])
    process, at = Process(table, target), Rows.of(column(2, 16, 48))
    drawn = np.array([process.sampled(at, np.random.default_rng(n)) for n in range(1000)])
    mean, deviation = process.predicted(at)
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.15)
    assert drawn.std(axis=0) == pytest.approx(deviation, rel=0.15)


def test_what_is_absent_differs_from_every_value() -> None:
    process = Process(column(ABSENT, 1, 2, 4, 8), np.array([5.0, 1.0, 2.0, 3.0, 4.0]))
    near = process.covariance(Rows.of(column(ABSENT)), Rows.of(column(1, 2, 4, 8, ABSENT)))[0]
    assert near[4] == 1.0
    assert near[:4].max() < 1.0


def test_equal_arguments_give_an_equal_process() -> None:
    table = np.array([[float(n), float(n % 3)] for n in range(40)])
    target = np.array([float(n > 30) for n in range(40)])
    first, second = Process(table, target), Process(table, target)
    assert first.means(Rows.of(table)).tolist() == second.means(Rows.of(table)).tolist()
