"""Cores of their own for measuring: what the host does for a launch is part of a kernel's time, and takes
twice as long where every core compiles."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

__all__ = ["apart", "on", "without"]

_LEAST = 8  # cores of a machine from which some are set apart; `estimated`
_APART = 2  # for the thread that launches, and for the device's driver


def apart() -> tuple[int, ...]:
    """The cores of this thread that only the measuring process shall use; none on a small machine."""
    own = sorted(os.sched_getaffinity(0))
    return tuple(own[-_APART:]) if len(own) >= _LEAST else ()


@contextmanager
def without(cores: Collection[int]) -> Iterator[None]:
    """This thread, and whatever it starts meanwhile, keeps off ``cores``."""
    with _moved(os.sched_getaffinity(0) - set(cores) if cores else set()):
        yield


@contextmanager
def on(cores: Collection[int]) -> Iterator[None]:
    """This thread runs on ``cores`` alone; where it is, if there are none."""
    with _moved(set(cores)):
        yield


@contextmanager
def _moved(cores: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
