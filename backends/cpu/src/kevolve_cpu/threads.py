"""Which threads of this process run, and whether OpenMP owns them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from attrs import define, field

__all__ = ["ThreadWatch", "thread_ids"]

_TASKS = Path("/proc/self/task")
#: An OpenMP worker spins for its next region before it sleeps: 0.2 ms with the GOMP_SPINCOUNT of this
#: backend's workers, up to 7 ms without (measured, 2-CPU host). Counted is CPU time, since a thread of a busy
#: host may wait long for its turn; the wall limit only ends a wait that nothing else ends.
_SPIN_CPU_S = 0.05
_WALL_S = 10.0
_POLL_S = 0.0005


def thread_ids() -> frozenset[int]:
    """Kernel ids of this process's threads."""
    return frozenset(int(p.name) for p in _TASKS.iterdir())


@define
class ThreadWatch:
    """Tells threads that a C++ candidate may have (its OpenMP workers) from threads it may not.

    `arm` takes note of the threads that are there. Afterwards `check` looks at every other one: an idle
    worker of OpenMP's sleeps in a system call made by the OpenMP runtime itself, which
    ``/proc/self/task/ID/syscall`` shows by its program counter; a thread made in any other way sleeps
    elsewhere, runs, or has gone by the time it is looked at again.
    """

    found: str = field(default="", init=False)
    _known: set[int] = field(factory=set, init=False)
    _runtime: list[tuple[int, int]] = field(factory=list, init=False)

    def arm(self) -> None:
        self.found = ""
        self._known = set(thread_ids())
        self._runtime = _openmp_ranges()

    def check(self) -> str:
        """What runs that is not OpenMP's, in words, or an empty string. Quick when no thread is new; waits
        for OpenMP's workers to fall asleep otherwise. ``found`` keeps the first finding since `arm`."""
        now = self._look()
        self.found = self.found or now
        return now

    def _look(self) -> str:
        fresh = thread_ids() - self._known
        if not fresh:
            return ""
        if not self._runtime:
            self._runtime = _openmp_ranges()
        deadline = time.monotonic() + _WALL_S
        begun = {thread: _cpu_seconds(thread) for thread in fresh}
        while True:
            foreign = {}
            running = set()
            for thread in fresh:
                state = self._state(thread)
                if state == "running":
                    running.add(thread)
                elif state != "openmp":
                    foreign[thread] = state
            if foreign:
                thread, state = next(iter(sorted(foreign.items())))
                return f"{len(foreign)} thread(s) that OpenMP did not make, e.g. {thread} ({state})"
            if not running:
                self._known |= fresh
                return ""
            spent = {thread: _cpu_seconds(thread) - begun[thread] for thread in running}
            if max(spent.values()) > _SPIN_CPU_S or time.monotonic() > deadline:
                names = ", ".join(str(t) for t in sorted(running))
                return f"{len(running)} thread(s) still running after the call returned: {names}"
            time.sleep(_POLL_S)

    def _state(self, thread: int) -> str:
        """``openmp``, ``running``, or what a foreign thread was seen doing."""
        try:
            words = (_TASKS / str(thread) / "syscall").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return "ended after the call returned"
        except OSError:
            return self._state_by_name(thread)
        if words[0] == "running":
            return "running"
        counter = int(words[-1], 16)
        if any(low <= counter < high for low, high in self._runtime):
            return "openmp"
        return f"waiting in system call {words[0]} outside the OpenMP runtime"

    def _state_by_name(self, thread: int) -> str:
        # Some kernels hide `syscall`. Python knows its own threads; of the rest no more can be told.
        if any(t.native_id == thread for t in threading.enumerate()):
            return "a Python thread"
        return "openmp"


def _cpu_seconds(thread: int) -> float:
    """CPU time of a thread so far; nothing more is added once it has ended."""
    try:
        return int((_TASKS / str(thread) / "schedstat").read_text().split()[0]) * 1e-9
    except OSError:
        return 0.0


def _openmp_ranges() -> list[tuple[int, int]]:
    """Address ranges of the mapped OpenMP runtimes' code."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "x" in line.split(maxsplit=2)[1] and any(n in line for n in ("libgomp", "libomp", "libiomp")):
            low, high = line.split(maxsplit=1)[0].split("-")
            ranges.append((int(low, 16), int(high, 16)))
    return ranges
