"""What a run shows while it goes: a live display on a terminal, plain lines elsewhere. Both only read
events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TextIO

from attrs import define, field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kevolve_core.evolve.budget import Budget
from kevolve_core.evolve.events import (
    Evaluated,
    Event,
    NewBest,
    PhaseChanged,
    Preparing,
    ProposalFailed,
    Proposed,
    RunStarted,
)
from kevolve_core.report import failure_counts

__all__ = ["LiveDisplay", "PlainLines", "Progress", "State", "display"]

_PHASES = {
    "prepare": "preparing",
    "search": "searching",
    "race": "racing the best candidates against every baseline",
    "confirm": "confirming the winner in fresh processes, then on the holdout cases",
    "done": "writing the report",
}
_HEARTBEAT_S, _SILENCE_S = 10.0, 30.0  # between lines with and without news (estimated)
_ID = 8  # characters of a candidate's id that are shown


@define
class State:
    """What the events so far amount to. ``clock`` gives monotonic seconds."""

    title: str
    evidence: str
    budget: Budget
    clock: Callable[[], float] = time.monotonic
    phase: str = "prepare"
    step: str = ""  # of the preparation
    finalists: int = 0
    judged: int = 0  # finalists of the phase, so far
    given: set[int] = field(factory=set)  # sequences of the user's own kernels
    proposed: int = 0
    duplicates: int = 0
    counts: Mapping[str, int] = field(factory=dict)
    best: NewBest | None = None
    last_failure: str = ""
    stopped: str = ""
    _seconds: float = 0.0
    _since: float | None = None

    def __attrs_post_init__(self) -> None:
        self._since = self.clock()

    def apply(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case Preparing(step=step):
                self.step = step
            case RunStarted(proposals=proposals, seconds=seconds):
                self.proposed, self.phase, self.finalists = proposals, event.phase, event.finalists
                self.counts = event.counts
                self._at(seconds)
            case Proposed(duplicate_of=duplicate_of, seconds=seconds):
                self.proposed += 1
                if event.operator == "given":
                    self.given.add(event.sequence)
                self.duplicates += duplicate_of is not None
                self._at(seconds)
            case ProposalFailed(fault=fault, seconds=seconds):
                self.last_failure = f"generator: {fault}"
                self._at(seconds)
            case Evaluated(verdict=verdict, reason=reason, counts=counts, seconds=seconds, phase=phase):
                if phase == "search":
                    self.counts = counts
                else:
                    self.judged += 1
                if verdict.value != "accepted":
                    self.last_failure = f"{words(verdict.value)}: {reason}"
                self._at(seconds)
            case NewBest(seconds=seconds):
                self.best = event
                self._at(seconds)
            case PhaseChanged(phase=phase, stopped=stopped, seconds=seconds):
                self.phase, self.finalists, self.judged = phase, event.finalists, 0
                self.stopped = stopped or self.stopped
                self._at(seconds)

    def _at(self, seconds: float) -> None:
        self._seconds, self._since = seconds, self.clock()

    @property
    def doing(self) -> str:
        """What goes on now, in words."""
        words = _PHASES.get(self.phase, self.phase)
        if self.phase == "prepare" and self.step:
            return f"{words}: {self.step}"
        if self.phase in {"race", "confirm"} and self.finalists > 1:
            return f"{words} ({min(self.judged + 1, self.finalists)} of at most {self.finalists})"
        return words

    @property
    def seconds(self) -> float:
        """Active seconds of the run, now."""
        return self._seconds + (self.clock() - self._since if self._since is not None else 0.0)

    @property
    def evaluated(self) -> int:
        return sum(self.counts.values())

    @property
    def failures(self) -> list[tuple[str, int]]:
        """(kind in words, count), most frequent first."""
        return list(failure_counts(self.counts).items())

    @property
    def share(self) -> float:
        """Consumed share of the budget, 0 to 1, by the limit that is nearest."""
        shares = [0.0]
        if self.budget.seconds:
            shares.append(self.seconds / self.budget.seconds)
        if self.budget.candidates:
            shares.append(self.evaluated / self.budget.candidates)
        return min(1.0, max(shares))

    def left(self) -> str:
        """What is left of the budget, in words."""
        if self.phase not in {"prepare", "search"}:
            return ""
        parts = []
        if self.budget.seconds is not None:
            rest = self.budget.seconds - self.seconds
            parts.append(f"{duration(rest)} left" if rest > 0 else "time is up, evaluations in flight end")
        if self.budget.candidates is not None:
            parts.append(f"{counted(max(0, self.budget.candidates - self.evaluated))} left")
        return ", ".join(parts) or "no limit"

    def best_text(self) -> str:
        if self.best is None:
            return "none yet"
        return (
            f"{self.best.score:.2f}x {self.evidence}, quick timing "
            f"(candidate {self.best.candidate_id[:_ID]}, after {duration(self.best.seconds)})"
        )

    def failures_text(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.failures) or "none"


class Progress(Protocol):
    """Shows a run. `show` may be called from any thread."""

    def show(self, event: Event) -> None: ...

    def note(self, text: str) -> None:
        """One sentence that is not an event."""
        ...


class PlainLines:
    """One line for what matters, and now and then one that says it goes on."""

    def __init__(self, state: State, stream: TextIO) -> None:
        self._state, self._stream = state, stream
        self._shown = state.clock()
        self._line(state.title)
        self._line(
            f"budget {budget_text(state.budget)} of search; preparing, racing and confirming come on top"
        )

    def show(self, event: Event) -> None:
        state = self._state
        state.apply(event)
        match event:
            case NewBest():
                self._stamped(f"best so far {state.best_text()}")
            case Preparing():
                self._stamped(state.doing)
            case RunStarted(resumed=False):
                self._stamped("searching: the clock of the budget starts")
            case PhaseChanged(phase=phase) if phase != "search":
                ended = f"search ended ({state.stopped}); " if phase == "race" and state.stopped else ""
                self._stamped(ended + state.doing)
            case RunStarted(resumed=True, proposals=proposals, seconds=seconds):
                self._stamped(f"resumed after {proposals} proposals and {duration(seconds)}: {state.doing}")
            case Evaluated(phase=phase) if phase != "search":
                self._stamped(
                    f"{phase}: candidate {event.candidate_id[:_ID]} {_outcome(event, state.evidence)}"
                )
            case Evaluated() if event.sequence in state.given:
                self._stamped(f"your kernel {event.candidate_id[:_ID]}: {_outcome(event, state.evidence)}")
            case Evaluated() if self.silent >= _HEARTBEAT_S:
                self.beat()

    def note(self, text: str) -> None:
        self._line(text)

    @property
    def silent(self) -> float:
        """Seconds since the last line."""
        return self._state.clock() - self._shown

    def beat(self) -> None:
        """A line that says where the run is, although nothing new has happened."""
        state = self._state
        if state.phase == "search":
            self._stamped(
                f"{counted(state.evaluated)} evaluated, best {state.best_text()}, failures: "
                f"{state.failures_text()}, {state.left()}"
            )
        else:
            self._stamped(f"still {state.doing}")

    def _stamped(self, text: str) -> None:
        self._shown = self._state.clock()
        self._line(f"[{self._state.seconds:7.1f} s] {text}")

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _outcome(event: Evaluated, evidence: str) -> str:
    if event.score:
        return f"{event.score:.2f}x {evidence}"
    verdict = words(event.verdict.value)
    return f"{verdict}: {event.reason}" if event.reason else verdict


class LiveDisplay:
    """A few lines of a terminal that rewrite themselves."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._note = ""

    def show(self, event: Event) -> None:
        self._state.apply(event)

    def note(self, text: str) -> None:
        self._note = text

    def __rich__(self) -> RenderableType:
        state = self._state
        head = Table.grid(padding=(0, 1))
        head.add_column()
        head.add_column()
        head.add_column(style="cyan", no_wrap=True)
        bar = ProgressBar(total=1.0, completed=state.share, width=28, pulse=state.phase != "search")
        head.add_row(Text(state.doing), bar, Text(state.left()))
        body = Table.grid(padding=(0, 2))
        body.add_column(style="dim", no_wrap=True, min_width=12)
        body.add_column(overflow="ellipsis", no_wrap=True)
        accepted = state.counts.get("accepted", 0)
        body.add_row(
            "candidates",
            f"{state.evaluated} evaluated, {accepted} accepted, {state.duplicates} duplicates, "
            f"{duration(state.seconds)}",
        )
        body.add_row("best so far", Text(state.best_text(), style="bold green" if state.best else ""))
        body.add_row("failures", Text(state.failures_text(), style="yellow" if state.failures else ""))
        if state.last_failure:
            body.add_row("last failure", Text(" ".join(state.last_failure.split()), style="dim"))
        lines: list[RenderableType] = [Text(state.title, style="bold"), head, body]
        if self._note:
            lines.append(Text(self._note, style="yellow"))
        return Group(*lines)


@contextmanager
def display(state: State, console: Console) -> Iterator[Progress]:
    """The right display for ``console``; a live one is gone when the block ends."""
    if not console.is_terminal or console.is_dumb_terminal:
        plain = PlainLines(state, console.file)  # type: ignore[arg-type]  # rich types its file as IO[str]
        with _beating(plain):
            yield plain
        return
    live = LiveDisplay(state)
    with Live(live, console=console, refresh_per_second=4, transient=True):
        yield live


@contextmanager
def _beating(plain: PlainLines) -> Iterator[None]:
    """While the block runs, a line at least every thirty seconds: a silent log looks like a hang."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            if plain.silent >= _SILENCE_S:
                plain.beat()

    thread = threading.Thread(target=beat, name="kevolve-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def budget_text(budget: Budget) -> str:
    """``60 s``, ``100 candidates``, ``100 candidates or 60 s``."""
    parts = [] if budget.candidates is None else [counted(budget.candidates)]
    parts += [] if budget.seconds is None else [duration(budget.seconds)]
    return " or ".join(parts) or "without limit"


def counted(candidates: int) -> str:
    return f"{candidates} candidate{'' if candidates == 1 else 's'}"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def words(kind: str) -> str:
    return kind.replace("_", " ")
