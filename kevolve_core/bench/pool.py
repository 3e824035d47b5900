"""Checking processes: problems are handed to them one by one, and a process that dies is replaced."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import attrs

from kevolve_core.api.parts import Place
from kevolve_core.errors import WorkerError
from kevolve_core.isolate.process import Limits, WorkerProcess
from kevolve_core.serial import to_plain

__all__ = ["BASELINE", "CHECK_ROLE", "MEASURING", "SWEEP_ROLE", "Checker", "over"]

T = TypeVar("T")
_LIMITS = Limits(seconds=600.0, memory_bytes=24 << 30)


CHECK_ROLE = "kevolve_core.bench.check:CheckRole"
SWEEP_ROLE = "kevolve_core.bench.sweep:SweepRole"
#: File of a process's scratch directory with the number of the candidate that it is at, if any.
MEASURING = "measuring"
#: What stands before the name of a baseline that a process was lost to.
BASELINE = "baseline "


class Checker:
    """One process of ``role`` (see `kevolve_core.bench.check.CheckRole`), started when it is first needed."""

    def __init__(
        self, where: Place, language: str, threads: int, workdir: Path, role: str = CHECK_ROLE
    ) -> None:
        self._role = role
        self._where = where
        self._language = language
        self._threads = threads
        self._workdir = workdir
        self._worker: WorkerProcess | None = None
        self.closed = False

    def call(self, op: str, arguments: Mapping[str, Any], seconds: float = _LIMITS.seconds) -> Any:
        """The answer of one operation. Raises WorkerError for a crash or hang of the process."""
        if self.closed:
            raise WorkerError("the benchmark was stopped")
        if self._worker is None or not self._worker.alive:
            self._worker = self._started()
        limits = attrs.evolve(_LIMITS, seconds=seconds)
        return self._worker.call(op, arguments, limits=limits).value

    def measuring(self) -> str:
        """The number of the candidate that the process was at when it ended, or ""."""
        try:
            return (self._workdir / "scratch" / MEASURING).read_text()
        except OSError:
            return ""

    def _started(self) -> WorkerProcess:
        where = self._where
        environment = {
            **where.backend.manifest.worker_environment,
            "OMP_NUM_THREADS": str(self._threads),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        }
        scratch = self._workdir / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        config = {
            "ref": to_plain(where.registry.ref(where.backend_name)),
            "device": to_plain(where.device),
            "language": self._language,
            "threads": self._threads,
            "workdir": str(scratch),
        }
        return WorkerProcess(self._role, config, workdir=self._workdir, environment=environment, name="check")

    def close(self) -> None:
        """End the process; whatever is asked of it afterwards raises."""
        self.closed = True
        if self._worker is not None:
            self._worker.kill()


def over(
    items: Iterable[T],
    work: Callable[[T, Checker], None],
    where: Place,
    *,
    language: str = "",
    jobs: int = 0,
    role: str = CHECK_ROLE,
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """``work(item, checker)`` for every item, in ``jobs`` threads with a process each (0: one a core).

    When it is interrupted, or one ``work`` raises, the processes are killed, and ``on_stop`` is called to
    wake work that waits for something else; also at the ordinary end.
    """
    cores = len(os.sched_getaffinity(0))
    count = jobs or cores
    queue = iter(list(items))
    lock, stop = threading.Lock(), threading.Event()

    def serve(checker: Checker) -> None:
        while not stop.is_set():
            with lock:
                item = next(queue, None)
            if item is None:
                return
            try:
                work(item, checker)
            except CancelledError:  # by `on_stop`
                return

    with tempfile.TemporaryDirectory(prefix="kevolve-bench-") as scratch:
        threads = max(1, cores // count)
        checkers = [Checker(where, language, threads, Path(scratch) / str(k), role) for k in range(count)]
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(serve, c) for c in checkers]
            try:
                for f in futures:
                    f.result()
            finally:
                stop.set()
                for c in checkers:
                    c.close()
                on_stop()
