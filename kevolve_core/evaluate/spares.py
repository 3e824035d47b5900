"""A worker process started ahead: a device's runtime takes seconds to start, and a worker that a candidate
killed is needed again at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from attrs import define, field

from kevolve_core.errors import KevolveError
from kevolve_core.isolate.process import WorkerProcess

__all__ = ["Spares"]


@define
class Spares:
    """At most one spare worker, started in the background by ``make`` (called with a running number)."""

    make: Callable[[int], WorkerProcess]
    _pool: ThreadPoolExecutor = field(
        init=False, factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="kevolve-spare")
    )
    _next: Future[WorkerProcess] | None = field(init=False, default=None)
    _count: int = field(init=False, default=0)

    def start(self) -> None:
        """Begin to start a worker, unless there is one or will be."""
        if self._next is None:
            self._count += 1
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._next = self._pool.submit(self.make, self._count)

    def take(self) -> WorkerProcess | None:
        """The spare, once it is ready; None where there is none, or it could not be started: whoever needs
        one then starts it himself, and meets the reason."""
        found, self._next = self._next, None
        if found is None:
            return None
        with contextlib.suppress(KevolveError, OSError):
            worker = found.result()
            return worker if worker.alive else None
        return None

    def settle(self) -> None:
        """Wait until no worker is being started."""
        if self._next is not None:
            wait([self._next])

    def close(self) -> None:
        """Start no more. Whoever made the processes ends them."""
        self._pool.shutdown(wait=False, cancel_futures=True)
