"""One writer a run: an exclusive ``flock`` that the kernel releases however the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kevolve_core.errors import RunLockedError
from kevolve_core.store.faults import guarded

__all__ = ["RunLock"]


class RunLock:
    """Holds ``<run>/lock`` until `release`. The file names the holder's pid; it stays when the run is free,
    so that nobody can lock a file that another is about to delete."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            RunLockedError: another process, or another store in this one, holds it; names the pid.
            StoreError: the directory is not writable.
        """
        with guarded(str(path)):
            # Python opens it close-on-exec: a worker that outlives a killed run does not keep the run locked.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
                os.close(self._fd)
                raise RunLockedError(
                    "this run is in use by another process",
                    got=f"pid {holder or 'unknown'}",
                    where=str(path.parent),
                    mend="wait until that process has ended, or end it, then try again",
                ) from error
            except OSError:
                os.close(self._fd)
                raise
            try:
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
            except OSError:
                os.close(self._fd)
                raise

    def release(self) -> None:
        """Give the lock back; harmless when done twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
