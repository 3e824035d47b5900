"""JSON messages and file descriptors over a Unix socket pair.

JSON, because one end may be a process that runs untrusted code: nothing received is ever unpickled. A message
is a 4-byte little-endian length, then that many bytes of UTF-8 JSON; descriptors travel with the length.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from kevolve_core.errors import WorkerError

__all__ = ["Channel"]

_HEADER = struct.Struct("<I")
_LIMIT = 32 << 20  # bytes a message may have; far above any layout or log
_MAX_FDS = 8


class Channel:
    """One end of a connection. Not thread-safe: one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message; raises OSError when the other end is gone."""
        body = json.dumps(message).encode()
        socket.send_fds(self._sock, [_HEADER.pack(len(body))], list(fds))
        self._sock.sendall(body)

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """Block for one message. Raises EOFError at end of stream and WorkerError for a broken message."""
        header, fds, _, _ = socket.recv_fds(self._sock, _HEADER.size, _MAX_FDS)
        try:
            if not header:
                raise EOFError
            header += self._exactly(_HEADER.size - len(header))
            (size,) = _HEADER.unpack(header)
            if size > _LIMIT:
                raise WorkerError("a worker sent an oversized message", kind="protocol", got=f"{size} bytes")
            try:
                message = json.loads(self._exactly(size))
            except ValueError as error:
                raise WorkerError(
                    "a worker sent a message that is not JSON", kind="protocol", got=str(error)
                ) from error
            if not isinstance(message, dict):
                raise WorkerError("a worker sent a message that is not an object", kind="protocol")
            return message, list(fds)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def close(self) -> None:
        self._sock.close()

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._sock.recv(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
