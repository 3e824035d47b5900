"""The split of a budget between memory and none: deterministic, bounded, and towards progress."""

from __future__ import annotations

import pytest

from kevolve_core.errors import ConfigError
from kevolve_core.knowledge.experience import COLD, WARM, Lanes


def run(lanes: Lanes, scores: dict[str, list[float | None]], count: int, seed: int = 0) -> list[str]:
    """Each lane's proposals get the lane's next scores, the last one over and over."""
    used = {WARM: 0, COLD: 0}
    taken = []
    for sequence in range(count):
        lane = lanes.choose(sequence, seed)
        lanes.chosen(sequence, lane)
        series = scores[lane]
        lanes.told(sequence, lane, series[min(used[lane], len(series) - 1)])
        used[lane] += 1
        taken.append(lane)
    return taken


def climbing(step: float) -> list[float | None]:
    return [1.0 * (1 + step) ** n for n in range(400)]


def test_off_and_warm_have_one_lane() -> None:
    assert set(run(Lanes("off"), {WARM: [1.0], COLD: [1.0]}, 50)) == {COLD}
    assert set(run(Lanes("warm"), {WARM: [1.0], COLD: [1.0]}, 50)) == {WARM}


def test_the_first_two_proposals_go_one_to_each() -> None:
    assert [Lanes().choose(n, 7) for n in (0, 1)] == [WARM, COLD]


def test_the_same_history_takes_the_same_way() -> None:
    scores = {WARM: [1.0, None, 1.3], COLD: climbing(0.02)}
    assert run(Lanes(), scores, 200, seed=3) == run(Lanes(), scores, 200, seed=3)


def test_another_seed_takes_another_way() -> None:
    scores: dict[str, list[float | None]] = {WARM: [1.0], COLD: [1.0]}
    assert run(Lanes(), scores, 100, seed=1) != run(Lanes(), scores, 100, seed=2)


def test_a_lane_that_progresses_gets_more_than_one_that_has_stopped() -> None:
    taken = run(Lanes(), {WARM: [2.0], COLD: climbing(0.03)}, 300)
    assert taken.count(COLD) > 180


def test_no_lane_starves() -> None:
    taken = run(Lanes(floor=0.25), {WARM: climbing(0.05), COLD: [None]}, 400)
    assert taken.count(COLD) > 70


def test_equal_lanes_share_evenly() -> None:
    taken = run(Lanes(), {WARM: [1.0], COLD: [1.0]}, 400)
    assert 160 < taken.count(WARM) < 240


def test_both_lanes_are_reported() -> None:
    lanes = Lanes()
    run(lanes, {WARM: [1.5, None, 1.2], COLD: [1.0, 1.1, 3.0]}, 40)
    report = lanes.report()
    assert report[WARM].best == 1.5
    assert report[COLD].best == 3.0
    assert report[WARM].failed == 1
    assert report[WARM].proposals + report[COLD].proposals == 40
    assert report[WARM].share + report[COLD].share == pytest.approx(1.0)


def test_a_lane_is_resumed_by_its_history() -> None:
    scores = {WARM: climbing(0.01), COLD: climbing(0.02)}
    whole, first = Lanes(), Lanes()
    taken = run(whole, scores, 100, seed=5)
    run(first, scores, 60, seed=5)
    assert [first.choose(60, 5)] == [taken[60]]


@pytest.mark.parametrize("options", [{"mode": "hot"}, {"floor": 0.7}, {"window": 0}])
def test_wrong_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Lanes(**options)  # type: ignore[arg-type]
