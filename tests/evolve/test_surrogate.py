"""The classifier surrogate: what it learns, what it ranks, and that it costs the same at any population."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from evolve_fakes import DEVICE, SPEC

from kevolve_core.errors import ConfigError
from kevolve_core.evolve.points import PointGenerator
from kevolve_core.evolve.policies import SurrogatePolicy, make_policy
from kevolve_core.evolve.policies.examples import Example, Examples, labelled
from kevolve_core.evolve.policies.features import features_of, matrix
from kevolve_core.evolve.policies.forest import Forest
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
    works = preference([{"a": 8, "b": 4, "c": c, "d": 1} for c in (1, 2, 4)])
    fails = preference([{"a": 8, "b": 4, "c": 16, "d": 1}])
    assert max(fails) < max(works)


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


def test_proposals_in_flight_are_judged_by_different_trees() -> None:
    policy = told(60)
    points = [SPACE.sample(random.Random(n)) for n in range(500, 560)]
    preferences = [policy.preference(sequence, 0) for sequence in range(1000, 1010)]
    judgements = {tuple(preference(points)) for preference in preferences if preference is not None}
    assert len(judgements) > 1


def test_it_says_nothing_before_it_knows_something() -> None:
    assert [SurrogatePolicy().preference(n, 0) for n in range(40)] == [None] * 40


def test_without_scikit_learn_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kevolve_core.evolve.policies.forest.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="scikit-learn"):
        make_policy("surrogate")


def test_only_the_best_are_good_and_failures_are_bad() -> None:
    examples = [Example(float(loss), n, str(n), {}) for n, loss in enumerate((0, 1, 2, 3, 4, 5, 6, math.inf))]
    labels, weights = labelled(examples, 0.25)
    assert labels == [1, 1, 1, 1, 0, 0, 0, 0]
    assert weights[:4] == sorted(weights[:4], reverse=True)
    assert weights[4:] == [1.0] * 4


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


def test_equal_arguments_give_an_equal_forest() -> None:
    rows = [{"/x": float(n), "/y": float(n % 3)} for n in range(40)]
    labels = [float(n > 30) for n in range(40)]

    def likelihood() -> Sequence[float]:
        forest = Forest(rows, labels, [1.0] * 40, trees=8, seed=5)
        return list(forest.likelihood(rows, random.Random(1)))

    assert likelihood() == likelihood()
    assert likelihood()[35] > likelihood()[5]
