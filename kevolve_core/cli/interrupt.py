"""Ctrl-C: the first one asks the search to stop and keep its best, the second one ends the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from attrs import define

__all__ = ["Interrupt", "interruptible"]


@define
class Interrupt:
    """Whether the user, or a job system's SIGTERM, asked for an end."""

    asked: bool = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def interruptible(note: Callable[[str], None]) -> Iterator[Interrupt]:
    """Within the block SIGINT and SIGTERM set the `Interrupt`; a second one exits at once with 128 + signal.

    Workers notice that their parent is gone. Handlers are put back afterwards.
    """
    interrupt = Interrupt()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if interrupt.asked:
            os._exit(128 + number)
        interrupt.asked = True
        note("stopping, the best so far is kept (once more: end at once)")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
