"""Roles that worker processes of these tests play."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kevolve_core.isolate import sandbox


class Echo:
    """Answers, raises, hangs or dies on request."""

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting

    def op_greet(self) -> tuple[Any, list[Any]]:
        return self.greeting, []

    def op_environment(self) -> tuple[Any, list[Any]]:
        return dict(os.environ), []

    def op_raise(self) -> tuple[Any, list[Any]]:
        raise ValueError("as asked")

    def op_hang(self) -> tuple[Any, list[Any]]:
        while True:
            pass

    def op_die(self) -> tuple[Any, list[Any]]:
        print("last words", flush=True)
        ctypes.string_at(0)
        return None, []

    def op_eat(self) -> tuple[Any, list[Any]]:
        eaten = []
        while True:
            eaten.append(bytearray(1 << 26))


class Broken:
    """Cannot be constructed."""

    def __init__(self) -> None:
        raise RuntimeError("no constructor")


class Confined:
    """Confines itself, then reports which forbidden things still work."""

    def __init__(self) -> None:
        self.report = sandbox.confine()

    def op_report(self) -> tuple[Any, list[Any]]:
        return self.report, []

    def op_allowed(self) -> tuple[Any, list[Any]]:
        parent = os.getppid()
        attempts: dict[str, Callable[[], object]] = {
            "socket": socket.socket,
            "fork": os.fork,
            "subprocess": lambda: subprocess.run(["true"], check=True),
            "write a file": lambda: Path("/tmp/kevolve-should-not-exist").write_text(""),
            "touch a file": lambda: Path("/tmp/kevolve-should-not-exist").touch(),
            "make a folder": lambda: os.mkdir("/tmp/kevolve-should-not-exist"),
            "remove a file": lambda: os.unlink("/tmp/kevolve-should-not-exist"),
            "signal the parent": lambda: os.kill(parent, 0),
            "read the parent's memory": lambda: Path(f"/proc/{parent}/mem").read_bytes(),
            "read the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
            "read a file": lambda: Path("/etc/passwd").read_text(),
            "signal itself": lambda: os.kill(os.getpid(), 0),
            "a thread": self._thread,
            "anonymous memory": lambda: os.memfd_create("x"),
        }
        return [name for name, attempt in attempts.items() if _works(attempt)], []

    @staticmethod
    def _thread() -> None:
        thread = threading.Thread(target=str)
        thread.start()
        thread.join()


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, subprocess.SubprocessError):
        return False
    return True
