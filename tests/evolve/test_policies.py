"""Selection policies: state is a fold, choices come from (seed, sequence) alone, memory is bounded."""

from __future__ import annotations

import pickle
import random

import pytest
from evolve_fakes import CHOICES, GENES, candidate, judge

from kevolve_core.errors import ConfigError, UnknownNameError
from kevolve_core.evolve import POLICIES, make_policy
from kevolve_core.evolve.policies import EvolutionaryPolicy, GreedyPolicy
from kevolve_core.evolve.policies.behaviour import behaviour
from kevolve_core.interfaces import SelectionPolicy
from kevolve_core.model import Evaluation, Evidence, Profile, Verdict, VerdictKind

Choice = tuple[str, tuple[str, ...]]


def drive(policy: SelectionPolicy, count: int, seed: int = 1) -> list[Choice]:
    """Ask, tell at once, and return the choices."""
    rng = random.Random(0)
    choices = []
    for sequence in range(count):
        choice = policy.ask(sequence, seed)
        policy.asked(sequence, *choice)
        choices.append(choice)
        one = candidate([rng.randrange(CHOICES) for _ in range(GENES)])
        policy.tell(sequence, one, judge(one.id, ("quick",)))
    return choices


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_equal_evaluations_and_seed_give_equal_choices(name: str) -> None:
    assert drive(make_policy(name), 200) == drive(make_policy(name), 200)


@pytest.mark.parametrize("name", ["greedy", "evolutionary"])
def test_another_seed_gives_other_choices(name: str) -> None:
    assert drive(make_policy(name), 100, seed=1) != drive(make_policy(name), 100, seed=2)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_asking_changes_nothing(name: str) -> None:
    policy = make_policy(name)
    drive(policy, 60)
    assert policy.ask(60, 1) == policy.ask(60, 1)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_memory_does_not_grow_with_the_population(name: str) -> None:
    policy = make_policy(name)
    sizes = []
    for start in (0, 2000):
        for n in range(start, start + 2000):
            one = candidate([n])
            policy.tell(n, one, judge(one.id, ("quick",), score=1.0 + n % 997))
        sizes.append(len(pickle.dumps(policy)))
    assert sizes[1] <= sizes[0] * 1.1 + 200


def test_greedy_mutates_the_best_most_often() -> None:
    policy = GreedyPolicy(explore=0.0, explore_least=0.0, crossover=0.0)
    ranked = [candidate([n]) for n in range(4)]
    for n, one in enumerate(ranked):
        policy.tell(n, one, judge(one.id, ("quick",), score=4.0 - n))
    picks = [policy.ask(n, 0)[1][0] for n in range(10, 510)]
    counts = [picks.count(one.id) for one in ranked]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > 0


def test_greedy_explores_less_and_less() -> None:
    policy = GreedyPolicy(explore=0.8, explore_least=0.05, half_life=100)
    one = candidate([0])
    policy.tell(0, one, judge(one.id, ("quick",), score=2.0))
    early = [policy.ask(n, 0)[0] for n in range(4, 104)].count("draft")
    late = [policy.ask(n, 0)[0] for n in range(1000, 1100)].count("draft")
    assert early > 2 * late
    assert late > 0


def test_greedy_tries_to_mend_failures_while_nothing_works() -> None:
    policy = GreedyPolicy()
    one = candidate([0])
    policy.tell(0, one, Evaluation(one.id, Verdict(VerdictKind.COMPILE_ERROR)))
    choices = {policy.ask(n, 0) for n in range(4, 40)}
    assert choices == {("draft", ()), ("mutate", (one.id,))}


@pytest.mark.parametrize("name", ["greedy", "evolutionary"])
def test_a_score_that_is_no_number_is_never_a_parent(name: str) -> None:
    policy = make_policy(name)
    one = candidate([0])
    policy.tell(0, one, judge(one.id, ("quick",), score=float("nan")))
    assert {policy.ask(n, 0) for n in range(50, 90)} == {("draft", ())}


def test_islands_keep_to_themselves_until_migration() -> None:
    policy = EvolutionaryPolicy(islands=2, drafts=0, explore=0.0, crossover=0.0, migration=3)
    first, second = candidate([0]), candidate([1])
    policy.tell(0, first, judge(first.id, ("quick",), score=2.0))
    policy.tell(1, second, judge(second.id, ("quick",), score=1.5))
    assert {policy.ask(n, 0)[1] for n in range(2, 40, 2)} == {(first.id,)}
    assert {policy.ask(n, 0)[1] for n in range(3, 41, 2)} == {(second.id,)}
    failed = candidate([2])
    policy.tell(2, failed, Evaluation(failed.id, Verdict(VerdictKind.CRASH)))
    assert {policy.ask(n, 0)[1] for n in range(3, 41, 2)} == {(first.id,), (second.id,)}


def test_a_slower_kernel_that_works_another_way_survives() -> None:
    policy = EvolutionaryPolicy(islands=1, drafts=0, explore=0.0, crossover=0.0)
    fast, other, slower = candidate([0, 0]), candidate([1, 0]), candidate([0, 1])
    for n, (one, score) in enumerate([(fast, 2.0), (other, 1.1), (slower, 1.5)]):
        policy.tell(n, one, judge(one.id, ("quick",), score=score))
    assert {policy.ask(n, 0)[1] for n in range(3, 100)} == {(fast.id,), (other.id,)}


def test_crossover_takes_two_different_parents() -> None:
    policy = EvolutionaryPolicy(islands=1, drafts=0, explore=0.0, crossover=1.0)
    for n in range(2):
        one = candidate([n])
        policy.tell(n, one, judge(one.id, ("quick",), score=1.0 + n))
    operator, parents = policy.ask(2, 0)
    assert (operator, len(set(parents))) == ("crossover", 2)


def test_behaviour_tells_bottlenecks_apart_and_tuning_not() -> None:
    def cell(point: list[int], bottleneck: str) -> object:
        profile = Profile(Evidence.MEASURED, bottleneck=bottleneck)
        return behaviour(candidate(point), Evaluation("x", Verdict(VerdictKind.ACCEPTED), profile=profile))

    assert cell([0, 1], "memory") == cell([0, 2], "memory")
    assert len({cell([0], "memory"), cell([0], "compute"), cell([1], "memory")}) == 3


def test_an_unknown_policy_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'greedy'"):
        make_policy("gredy")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="greedy"):
        make_policy("greedy", {"widht": 3})
