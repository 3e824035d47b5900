"""What a run shows while it goes, from events alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kevolve_core.cli.progress import LiveDisplay, PlainLines, State, display, duration
from kevolve_core.evolve import Budget, Evaluated, NewBest, PhaseChanged, ProposalFailed, Proposed, RunStarted
from kevolve_core.model import VerdictKind


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def state(clock: Clock | None = None, **limits: float) -> State:
    budget = Budget(**limits) if limits else Budget(seconds=60)  # type: ignore[arg-type]  # test shorthand
    return State("rmsnorm on Toy", "simulated", budget, clock=clock or Clock())


def evaluated(seconds: float = 20.0, phase: str = "search", **counts: int) -> Evaluated:
    return Evaluated(
        phase, 1, "abcdef0123456789", VerdictKind.WRONG_RESULT, "off [by] 1", None, None, seconds, counts
    )


def screen(live: LiveDisplay) -> str:
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(live)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    return text


def test_the_best_is_shown_with_its_evidence() -> None:
    s = state()
    s.apply(NewBest(3, "abcdef0123456789", 1.84, 12.0))
    assert s.best_text() == "1.84x simulated, quick timing (candidate abcdef01, after 12 s)"


def test_failures_are_counted_by_kind_most_frequent_first() -> None:
    s = state()
    s.apply(evaluated(accepted=3, crash=1, wrong_result=2))
    assert s.failures_text() == "2 wrong result, 1 crash"


def test_time_left_runs_down_between_events() -> None:
    clock = Clock()
    s = state(clock)
    s.apply(RunStarted("r", 0, False, 0, 0.0))
    s.apply(evaluated(seconds=20.0))
    clock.now += 5
    assert s.left() == "35 s left"


def test_candidates_left_are_shown_for_a_budget_of_candidates() -> None:
    s = state(candidates=10)
    s.apply(evaluated(accepted=9))
    assert s.left() == "1 candidate left"


def test_a_resumed_run_starts_from_what_it_had_consumed() -> None:
    s = state()
    s.apply(RunStarted("r", 0, True, 12, 45.0))
    assert s.left() == "15 s left"


def test_the_live_display_has_candidates_best_failures_and_time_left() -> None:
    s = state()
    for event in (
        RunStarted("r", 0, False, 0, 0.0),
        Proposed(0, "draft", (), "abcdef0123456789", "g", None, 1.0),
        evaluated(accepted=3, wrong_result=2),
        NewBest(3, "abcdef0123456789", 1.84, 20.0),
    ):
        s.apply(event)
    text = screen(LiveDisplay(s))
    for part in ("5 evaluated, 3 accepted", "1.84x simulated", "2 wrong result", "40 s left", "off [by] 1"):
        assert part in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_labels_are_whole_on_a_narrow_terminal() -> None:
    s = state()
    s.apply(ProposalFailed(1, "draft", "x" * 300, 1.0))
    assert "last failure" in screen(LiveDisplay(s))


def test_plain_lines_name_phases_and_finalists() -> None:
    stream = io.StringIO()
    plain = PlainLines(state(), stream)
    plain.show(PhaseChanged("race", "seconds", 60.0))
    plain.show(evaluated(70.0, phase="race"))
    assert "search ended (seconds); racing the best candidates" in stream.getvalue()
    assert "race: candidate abcdef01 wrong result" in stream.getvalue()


def test_plain_lines_say_now_and_then_that_it_goes_on() -> None:
    clock, stream = Clock(), io.StringIO()
    plain = PlainLines(state(clock), stream)
    clock.now += 31
    assert plain.silent == 31
    plain.beat()
    assert "still preparing" in stream.getvalue()
    assert plain.silent == 0


def test_what_is_no_terminal_gets_plain_lines() -> None:
    with display(state(), Console(file=io.StringIO())) as progress:
        assert isinstance(progress, PlainLines)


def test_a_terminal_gets_the_live_display() -> None:
    with display(state(), Console(file=io.StringIO(), force_terminal=True)) as progress:
        assert isinstance(progress, LiveDisplay)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
