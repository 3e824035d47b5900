"""Narrowing what a granted exception opens: writes below given paths only, TCP to given ports only (Linux
5.13 and 6.7 or later).

A seccomp filter sees numbers, not paths or addresses, so a grant of "some path" or "some host" would open all
of them. Landlock, landlock(7), closes the rest again. It confines the calling thread and those it starts, so
it is called before any library starts threads. Structures and bits are those of ``linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

__all__ = ["narrow"]

_libc = ctypes.CDLL(None, use_errno=True)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_GET_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_BIND_TCP, _CONNECT_TCP = 1, 2
_NETWORK_SINCE = 4  # version of the interface


def narrow(write: Sequence[str] | None, ports: Sequence[int] | None) -> str:
    """Confine this process, and what it starts, for good.

    Args:
        write: files and folders that it may write below; None leaves writing to the other fences.
        ports: TCP ports that it may connect to; None leaves the network to the other fences.

    Returns:
        What is in force, in words; where the kernel cannot, the reason.
    """
    version = _call(_CREATE_RULESET, None, 0, _GET_VERSION)
    if version < 1:
        return "not narrowed: this kernel has no Landlock"
    files = 0 if write is None else _WRITE_FILE | _REMOVE_AND_MAKE
    files |= _REFER if files and version >= 2 else 0
    files |= _TRUNCATE if files and version >= 3 else 0
    network = _BIND_TCP | _CONNECT_TCP if ports is not None and version >= _NETWORK_SINCE else 0
    said = [] if write is None else [f"writes only below {', '.join(write)}"]
    if ports is not None:
        listed = ", ".join(map(str, ports))
        said.append(f"TCP only to port {listed}" if network else "TCP to any port: Linux before 6.7")
    if not files and not network:
        return "; ".join(said)
    ruleset = _call(
        _CREATE_RULESET, *_structure(struct.pack("<QQ", files, network)[: 8 if version < 4 else 16]), 0
    )
    if ruleset < 0:
        return f"not narrowed: {os.strerror(ctypes.get_errno())}"
    try:
        for path in write or ():
            _allow_path(ruleset, path, files)
        for port in ports or ():
            if network:
                rule, _ = _structure(struct.pack("<QQ", _CONNECT_TCP, port))
                _call(_ADD_RULE, ruleset, _NET_PORT, rule, 0)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if _call(_RESTRICT_SELF, ruleset, 0) < 0:
            return f"not narrowed: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(ruleset)
    return "; ".join(said)


def _allow_path(ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there cannot be written, which is the safe side
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            access &= _WRITE_FILE | _TRUNCATE
        rule, _ = _structure(struct.pack("<Qi", access, beneath))
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(beneath)


def _structure(data: bytes) -> tuple[ctypes.Array[ctypes.c_char], int]:
    return ctypes.create_string_buffer(data, len(data)), len(data)


def _call(number: int, *arguments: object) -> int:
    return int(_libc.syscall(number, *arguments))
