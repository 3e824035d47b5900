"""`WorkerProcess`: the parent's handle on one worker, with time and memory limits on every request."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from attrs import frozen

from kevolve_core.errors import WorkerError
from kevolve_core.isolate.channel import Channel

__all__ = ["Limits", "Reply", "WorkerProcess"]

_POLL = 0.02  # seconds between looks at a busy worker's memory
_LOG_TAIL = 4_000  # bytes of a dead worker's output that go into the message
_PASSED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "CXX", "CUDA_HOME", "ROCM_PATH")


@frozen
class Limits:
    """Seconds a request may take and resident bytes the worker may reach (None: unlimited)."""

    seconds: float = 60.0
    memory_bytes: int | None = None


_STARTUP = Limits(seconds=300.0)


@frozen
class Reply:
    """A request's answer: JSON value, received descriptors (the caller closes them) and the parent's wall
    seconds."""

    value: Any
    fds: tuple[int, ...]
    seconds: float


class RemoteError(WorkerError):
    """The operation raised inside the worker. ``kind`` is ``exception`` or ``out_of_memory``; the worker
    lives on, unless it said that it is ``lost`` (why, else ""): then it has been killed. ``parts`` are the
    what, got, where and mend of a `KevolveError`, {} of another exception."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.type = str(error.get("type", ""))
        self.log = str(error.get("log", ""))
        self.lost = str(error.get("lost", ""))
        parts = error.get("parts")
        self.parts: Mapping[str, str] = parts if isinstance(parts, dict) else {}
        super().__init__(
            f"{self.type}: {error.get('message', '')}".strip(), kind=str(error.get("kind", "exception"))
        )


class WorkerProcess:
    """A worker in its own process group, killed as a whole.

    Args:
        role: ``module:class`` of the role object.
        config: its keyword arguments (JSON values).
        workdir: scratch directory: HOME, TMPDIR and the log live there.
        environment: variables beside the few that are passed through; nothing else of the parent's is
        inherited.
        limits: the default for requests.
        drop_privileges: give up capabilities before anything else (roles that run candidates).
        boundary: arguments of `kevolve_core.isolate.landlock.narrow`; the role then takes ``narrowed``, its
        answer.
        on_started: called with this handle once there is a process, before its imports: from then on `kill`
            works.

    Raises:
        WorkerError: it did not start; RemoteError when the role's constructor raised.
    """

    def __init__(
        self,
        role: str,
        config: Mapping[str, Any],
        *,
        workdir: Path,
        environment: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        drop_privileges: bool = False,
        boundary: Mapping[str, Any] | None = None,
        name: str = "worker",
        on_started: Callable[[WorkerProcess], None] | None = None,
    ) -> None:
        self.name = name
        self._limits = limits or Limits()
        self._next = 0
        self._lock = Lock()  # one request at a time; `kill` does not wait for it
        self._log = workdir / f"{name}.log"
        workdir.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        life_read, self._life_write = os.pipe()
        with ours, theirs, open(self._log, "wb") as log:
            try:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "kevolve_core.isolate.worker",
                        str(theirs.fileno()),
                        str(life_read),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_environment(workdir, environment or {}),
                    cwd=workdir,
                    pass_fds=(theirs.fileno(), life_read),
                    start_new_session=True,
                )
            finally:
                os.close(life_read)
            self._channel = Channel(ours.dup())
        self._closed = False
        if on_started is not None:
            on_started(self)
        first = {"role": role, "config": dict(config), "drop_privileges": drop_privileges}
        first |= {} if boundary is None else {"boundary": dict(boundary)}
        self._request(first, (), _STARTUP)  # imports, which are nobody's kernel

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._closed and self._process.poll() is None

    def call(
        self,
        op: str,
        arguments: Mapping[str, Any] | None = None,
        fds: Sequence[int] = (),
        *,
        limits: Limits | None = None,
    ) -> Reply:
        """Run one operation.

        Raises:
            RemoteError: the operation raised; the worker is still good.
            WorkerError: ``timeout``, ``crash`` or ``out_of_memory``; the worker has been killed.
        """
        return self._request({"op": op, "arguments": dict(arguments or {})}, fds, limits or self._limits)

    def _request(self, message: dict[str, Any], fds: Sequence[int], limits: Limits) -> Reply:
        with self._lock:
            return self._exchange(message, fds, limits)

    def _exchange(self, message: dict[str, Any], fds: Sequence[int], limits: Limits) -> Reply:
        if self._closed:
            raise WorkerError(f"the {self.name} worker is closed")
        self._next += 1
        message["id"] = self._next
        start = time.perf_counter()
        try:
            self._channel.send(message, fds)
            self._wait(start, limits)
            answer, received = self._channel.receive()
        except WorkerError:
            self.kill()
            raise
        except (EOFError, OSError, ValueError) as error:  # ValueError: killed from another thread meanwhile
            raise self._died() from error
        seconds = time.perf_counter() - start
        if answer.get("id") != message["id"]:
            for fd in received:
                os.close(fd)
            self.kill()
            raise WorkerError(f"the {self.name} worker answered out of turn", kind="protocol")
        if "error" in answer:
            if answer["error"].get("lost"):
                self.kill()
            raise RemoteError(answer["error"])
        return Reply(answer.get("ok"), tuple(received), seconds)

    def _wait(self, start: float, limits: Limits) -> None:
        """Until the channel is readable; kills for time and memory."""
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while not poll.poll(_POLL * 1000):
            if time.perf_counter() - start > limits.seconds:
                raise WorkerError(f"no answer within {limits.seconds:g} s", kind="timeout", where=self.name)
            if limits.memory_bytes is not None and (used := self._resident()) > limits.memory_bytes:
                raise WorkerError(
                    f"used more than {limits.memory_bytes / 2**30:.2f} GiB of memory",
                    kind="out_of_memory",
                    got=f"{used / 2**30:.2f} GiB",
                    where=self.name,
                )

    def _resident(self) -> int:
        try:
            with open(f"/proc/{self.pid}/statm") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def _died(self) -> WorkerError:
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        if code is not None and code < 0:
            reason = f"killed by {_signal_name(-code)}"
        else:
            reason = f"ended with exit code {code}"
        return WorkerError(
            f"the {self.name} worker was {reason}"
            if code and code < 0
            else f"the {self.name} worker {reason}",
            kind="crash",
            got=self.log_tail() or None,
        )

    def log_tail(self) -> str:
        """The end of what the worker printed."""
        with contextlib.suppress(OSError), open(self._log, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LOG_TAIL))
            return log.read().decode(errors="replace").strip()
        return ""

    def kill(self) -> None:
        """End the whole process group now. Safe to call again."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._channel.close()
        os.close(self._life_write)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _environment(workdir: Path, extra: Mapping[str, str]) -> dict[str, str]:
    kept = {k: os.environ[k] for k in _PASSED if k in os.environ}
    paths = [p for p in sys.path if p and os.path.exists(p)]
    return {
        **kept,
        "HOME": str(workdir),
        "TMPDIR": str(workdir),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        **extra,
    }
