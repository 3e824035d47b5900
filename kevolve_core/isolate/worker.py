"""The program of a worker process: one role object that answers requests over a channel until its parent
goes.

Started as ``python -m kevolve_core.isolate.worker CHANNEL LIFELINE``. The first message names the role
(``module:class``) and its configuration. A role has a method ``op_NAME(**arguments) -> (reply, blocks)`` an
operation, and may have ``unusable() -> str``: asked after an operation failed, it says why the process is no
longer good for another one, or "".
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from typing import Any

from kevolve_core.errors import KevolveError
from kevolve_core.isolate import landlock, sandbox
from kevolve_core.isolate.channel import Channel

__all__ = ["main"]

_LOG_LIMIT = 6_000  # characters of a traceback that travel


def _failure(error: BaseException) -> dict[str, Any]:
    text = "".join(traceback.format_exception(error))
    kind = "out_of_memory" if _is_memory_error(error) else "exception"
    parts: dict[str, Any] = {}
    if isinstance(error, KevolveError):
        parts = {name: getattr(error, name) for name in ("what", "got", "where", "mend")}
        parts = {name: str(value)[:_LOG_LIMIT] for name, value in parts.items() if value is not None}
    return {
        "error": {
            "type": type(error).__name__,
            "message": str(error)[:_LOG_LIMIT],
            "log": text[-_LOG_LIMIT:],
            "kind": kind,
            "parts": parts,
        }
    }


def _is_memory_error(error: BaseException) -> bool:
    """Python's, torch's CPU and torch's device allocators each say it in their own way."""
    name, text = type(error).__name__, str(error)
    said = "not enough memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or said


def main() -> None:
    channel_fd, lifeline = int(sys.argv[1]), int(sys.argv[2])
    sandbox.die_with(lifeline)
    channel = Channel(socket.socket(fileno=channel_fd))
    first, _ = channel.receive()
    if first.get("drop_privileges"):
        sandbox.drop_privileges()
    if first.get("boundary"):  # before imports, which may start threads that would stay outside
        first["config"]["narrowed"] = landlock.narrow(**first["boundary"])
    try:
        module, _, name = first["role"].partition(":")
        role = getattr(importlib.import_module(module), name)(**first["config"])
        channel.send({"ok": {"pid": os.getpid()}, "id": first["id"]})
    except Exception as error:
        channel.send({**_failure(error), "id": first["id"]})
        return
    while True:
        try:
            request, fds = channel.receive()
        except EOFError:
            return
        blocks: list[Any] = []
        try:
            operation = getattr(role, "op_" + request["op"])
            reply, blocks = operation(*([fds] if fds else []), **request.get("arguments", {}))
            answer = {"ok": reply, "id": request["id"]}
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            answer = {**_failure(error), "id": request["id"]}
            if lost := getattr(role, "unusable", str)():
                answer["error"]["lost"] = lost[:_LOG_LIMIT]
        channel.send(answer, [b.fd for b in blocks])
        for block in blocks:
            block.close()
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
