"""Lanes, shares and resuming: what is asked for is a fold over what happened, and lanes do not mix."""

from __future__ import annotations

import random
from typing import Any

import pytest
from evolve_fakes import FakeGenerator, candidate, judge, settings

from kevolve_core.errors import ConfigError
from kevolve_core.evolve import Evaluated, Memory, make_policy
from kevolve_core.evolve.policies.bandit import BanditPolicy
from kevolve_core.evolve.shares import Shares
from kevolve_core.evolve.steering import COLD, WARM, Steering
from kevolve_core.interfaces import Proposal
from kevolve_core.knowledge.experience import Lanes
from kevolve_core.model import Evaluation, Verdict, VerdictKind


def split(*experience: dict[str, Any]) -> Memory:
    return Memory("split", Lanes(), experience)


def drive(steering: Steering, count: int) -> list[Any]:
    """Ask and tell at once; the orders."""
    orders = []
    for sequence in range(count):
        order = steering.ask(sequence)
        steering.asked(sequence, order.operator, order.parents)
        rng = random.Random(sequence)
        one = candidate([rng.randrange(4) for _ in range(5)])
        steering.tell(sequence, one, judge(one.id, ("quick",)))
        orders.append((order, one.id))
    return orders


@pytest.mark.parametrize("name", ["evolutionary", "greedy", "mcts", "surrogate"])
def test_the_cold_lane_never_builds_on_the_warm_one_which_learns_from_both(name: str) -> None:
    orders = drive(Steering(make_policy(name), 3, memory=split()), 200)
    cold = {one for order, one in orders if order.lane == COLD}
    warm = {one for order, one in orders if order.lane == WARM}
    assert cold
    assert warm
    parents = {
        lane: {p for order, _ in orders if order.lane == lane for p in order.parents} for lane in (COLD, WARM)
    }
    assert parents[COLD] <= cold
    assert parents[WARM] <= cold | warm
    assert parents[WARM] & cold - warm


def test_experience_starts_one_warm_draft_each_and_no_cold_one() -> None:
    genomes = ({"x": 1}, {"x": 2})
    orders = drive(Steering(make_policy("independent"), 0, memory=split(*genomes)), 40)
    given = [(order.lane, order.experience) for order, _ in orders if order.experience]
    assert given == [(WARM, (genomes[0],)), (WARM, (genomes[1],))]


@pytest.mark.parametrize(("mode", "lane"), [("off", COLD), ("warm", WARM)])
def test_one_sided_memory_has_one_lane(mode: str, lane: str) -> None:
    orders = drive(Steering(make_policy("greedy"), 0, memory=Memory(mode)), 20)
    assert {order.lane for order, _ in orders} == {lane}


def test_without_memory_there_are_no_lanes() -> None:
    assert {order.lane for order, _ in drive(Steering(make_policy("greedy"), 0), 20)} == {""}


def test_both_lanes_are_told_of_the_users_kernels() -> None:
    steering = Steering(make_policy("greedy"), 0, given=1, memory=split())
    one = candidate([0])
    assert steering.ask(0).operator == "given"
    steering.asked(0, "given", ())
    steering.tell(0, one, judge(one.id, ("quick",), score=2.0))
    parents = set()
    for sequence in range(1, 120):
        order = steering.ask(sequence)
        steering.asked(sequence, order.operator, order.parents)
        steering.passed(sequence)
        parents |= {(order.lane, parent) for parent in order.parents}
    assert parents == {(WARM, one.id), (COLD, one.id)}


def test_the_share_of_a_generator_follows_its_gains_for_its_cost() -> None:
    shares = Shares(("good", "bad", "dear"))
    for sequence in range(300):
        name = shares.choose()
        shares.chosen(name)
        rng = random.Random(sequence)
        value = {"good": 1.0, "bad": 0.5, "dear": 1.0}[name] + rng.random() * (1 + sequence / 300)
        shares.told(name, sequence, str(sequence), value, 20_000.0 if name == "dear" else 0.0)
    report = shares.report()
    assert report["good"]["asked"] > 1.5 * report["bad"]["asked"]
    assert report["good"]["asked"] > 1.5 * report["dear"]["asked"]
    assert min(each["asked"] for each in report.values()) >= 0.08 * 300
    assert sum(shares.shares().values()) == pytest.approx(1.0)


def test_a_generator_that_only_fails_keeps_its_floor() -> None:
    shares = Shares(("works", "fails"))
    for sequence in range(200):
        name = shares.choose()
        shares.chosen(name)
        shares.told(name, sequence, str(sequence), float(sequence) if name == "works" else None, 0.0)
    assert 0.08 * 200 <= shares.report()["fails"]["asked"] <= 0.2 * 200


def test_a_bandit_asks_more_of_the_policy_that_brings_more() -> None:
    good, bad = make_policy("greedy"), make_policy("random")
    policy = BanditPolicy({"good": good, "bad": bad})
    asked = []
    for sequence in range(200):
        operator, parents = policy.ask(sequence, 0)
        policy.asked(sequence, operator, parents)
        asked.append(operator)
        one = candidate([sequence])
        failed = Evaluation(one.id, Verdict(VerdictKind.CRASH))
        done = failed if operator == "sample" else judge(one.id, ("quick",), score=1.0 + sequence)
        policy.tell(sequence, one, done)
    assert asked.count("sample") < 0.25 * len(asked)


class Pair(FakeGenerator):
    """A mix: which of the two answered is in the origin."""

    parts = ("one", "two")

    async def propose(self, context: Proposal, n: int) -> Any:
        made = await super().propose(context, n)
        assert context.part in self.parts
        return [one.with_origin(type(one.origin)(context.part, context.operator)) for one in made]


def test_a_mix_is_reported_by_generator(bench: Any) -> None:
    result = bench.run(generator=Pair())
    assert {share.generator for share in result.shares} == {"one", "two"}
    assert sum(share.proposals for share in result.shares) == len(result.trajectory)
    assert sum(share.accepted + share.failed for share in result.shares) == result.evaluations


def test_lanes_are_reported(bench: Any) -> None:
    result = bench.run(memory=split())
    assert {share.lane for share in result.shares} == {WARM, COLD}
    best = max(share.best for share in result.shares if share.best is not None)
    assert best == max(point.score for point in result.trajectory if point.verdict is VerdictKind.ACCEPTED)


@pytest.mark.parametrize("name", ["mcts", "surrogate", "evolutionary"])
@pytest.mark.parametrize("count", [3, 25, 41])
def test_a_stopped_run_with_lanes_and_a_mix_resumes_to_the_undisturbed_end(
    bench: Any, name: str, count: int
) -> None:
    def parts() -> dict[str, Any]:
        return {"generator": Pair(), "policy": make_policy(name), "memory": split({"x": 1})}

    expected = bench.run(name="undisturbed", **parts())
    seen: list[Evaluated] = []

    def watch(event: object) -> None:
        if isinstance(event, Evaluated):
            seen.append(event)

    stopped = bench.run(on_event=watch, stop=lambda: len(seen) >= count, **parts())
    assert stopped.resumable
    result = bench.resume(**parts())
    assert result.trajectory == expected.trajectory
    assert result.shares == expected.shares


def test_resuming_with_another_use_of_memory_is_refused(bench: Any) -> None:
    bench.run(settings=settings(), memory=Memory("off"), stop=lambda: True)
    with pytest.raises(ConfigError, match="another memory"):
        bench.resume(memory=Memory("warm"))
