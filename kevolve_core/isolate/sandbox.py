"""What a worker gives up before it runs code it cannot trust (Linux).

Three layers, each reported by `confine` in words so that a report can say what held: resource limits,
capabilities (and dumpability, so that no worker reads another's memory), and a seccomp filter that refuses
new processes, sockets, tracing, signals to others and every way of opening a file for writing. Threads stay
allowed: OpenMP needs them. Seccomp's filter program follows seccomp(2); system call numbers are the kernel's
tables for the two machines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Mapping
from typing import Any

__all__ = ["confine", "die_with", "drop_privileges", "hide_memory", "limit_resources"]

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 4, 38, 24
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LD_W_ABS, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06
_CLONE_THREAD = 0x00010000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_F_SETSIG = 10

#: Per machine: AUDIT_ARCH, seccomp's own number, and the numbers of the refused calls.
_MACHINES: Mapping[str, Mapping[str, Any]] = {
    "x86_64": {
        "audit": 0xC000003E,
        "seccomp": 317,
        "network": (41, 42, 43, 49, 50, 288, 53),  # socket, connect, accept, bind, listen, accept4, …
        "process": (57, 58, 59, 322, 435),  # fork, vfork, execve, execveat, clone3
        "reach": (101, 310, 311, 312, 434, 438, 424, 425, 321, 298, 304, 129, 297),  # ptrace, pidfd, bpf, …
        "signal": (62, 234),  # kill, tgkill: only to itself
        "clone": 56,
        "write": (85, 82, 264, 316, 87, 263, 84, 83, 258, 86, 265, 88, 266, 76, 90, 91, 268, 92, 93, 94, 260,
        133,
                  259, 165, 166, 161, 437, 452),
        "open": (2, 1),  # open(path, flags): number, index of flags
        "openat": (257, 2),
    },
    "aarch64": {
        "audit": 0xC00000B7,
        "seccomp": 277,
        "network": (198, 203, 202, 200, 201, 242, 199),
        "process": (221, 281, 435),
        "reach": (117, 270, 271, 272, 434, 438, 424, 425, 280, 241, 265, 138, 240),
        "signal": (129, 131),
        "clone": 220,
        "write": (38, 276, 35, 34, 37, 36, 45, 52, 53, 54, 55, 33, 40, 39, 51, 437, 452),
        "open": None,
        "openat": (56, 2),
    },
}  # fmt: skip


def limit_resources(*, memory_bytes: int | None, file_bytes: int = 1 << 30) -> None:
    """Set rlimits: no core files, bounded files, and an address-space limit ``memory_bytes`` above what is
    mapped now, so that an allocation past it fails inside the worker."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if memory_bytes is not None:
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))


def hide_memory() -> None:
    """Let no process without ptrace rights read this one's memory."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with(lifeline: int) -> None:
    """Die by SIGKILL when the writing end of the pipe ``lifeline`` closes, that is, when the parent ends
    however it does. Done with signal-driven I/O, so that no thread is needed."""
    import fcntl
    import signal

    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    if _parent_gone(lifeline):
        os._exit(1)


def _parent_gone(lifeline: int) -> bool:
    try:
        return os.read(lifeline, 1) == b""
    except BlockingIOError:
        return False


def drop_privileges() -> None:
    """Give up every capability and the right to regain one. Call before threads start: capabilities are
    theirs."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and ctypes.get_errno() == errno.EINVAL:
            break
    header = struct.pack("<II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    _libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))


def confine(
    *,
    network: bool = False,
    write: bool = False,
    processes: bool = False,
) -> str:
    """Install the seccomp filter on every thread of this process.

    Args:
        network: a granted exception: sockets.
        write: a granted exception: opening files for writing.
        processes: a granted exception: starting programs (compilers).

    Returns:
        What is in force, in words; where the kernel refuses, the reason.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return f"no system-call filter: {platform.machine()} is not known"
    program = _program(machine, network=network, write=write, processes=processes)
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *i) for i in program))
    filter_program = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    code = _libc.syscall(
        machine["seccomp"],
        _SECCOMP_SET_MODE_FILTER,
        _SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.c_char_p(filter_program),
    )
    if code != 0:
        return f"no system-call filter: {os.strerror(ctypes.get_errno())}"
    granted = {"processes": processes, "network": network, "file writes": write}
    denied = [name for name, allowed in granted.items() if not allowed] or ["tracing"]
    return "system calls refused: " + ", ".join(denied)


_Instruction = tuple[int, int, int, int]


def _program(
    machine: Mapping[str, Any], *, network: bool, write: bool, processes: bool
) -> list[_Instruction]:
    """Classic BPF over struct seccomp_data {nr, arch, ip, args[6]}: a chain of independent checks, each of
    which returns EPERM or falls through to the next."""
    refuse: _Instruction = (_RET, 0, 0, _ERRNO | errno.EPERM)
    load_number: _Instruction = (_LD_W_ABS, 0, 0, 0)
    program: list[_Instruction] = [
        (_LD_W_ABS, 0, 0, 4),
        (_JEQ, 1, 0, machine["audit"]),
        refuse,  # another ABI (x32, i386) would evade the numbers below
        load_number,
    ]
    numbers = [
        *machine["reach"],
        *(() if processes else machine["process"]),
        *(() if network else machine["network"]),
        *(() if write else machine["write"]),
    ]
    for number in numbers:
        answer = errno.ENOSYS if number == 435 else errno.EPERM  # clone3: libc then falls back on clone
        program += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ERRNO | answer)]
    for number in machine["signal"]:
        program += [
            (_JEQ, 0, 4, number),
            (_LD_W_ABS, 0, 0, 16),
            (_JEQ, 1, 0, os.getpid()),
            refuse,
            load_number,
        ]
    if not processes:
        program += [  # clone without CLONE_THREAD is a new process
            (_JEQ, 0, 3, machine["clone"]),
            (_LD_W_ABS, 0, 0, 16),
            (_JSET, 1, 0, _CLONE_THREAD),
            refuse,
            load_number,
        ]
    if not write:
        for opening in (machine["open"], machine["openat"]):
            if opening is not None:
                number, flags = opening
                program += [
                    (_JEQ, 0, 3, number),
                    (_LD_W_ABS, 0, 0, 16 + 8 * flags),
                    (_JSET, 0, 1, _WRITE_FLAGS),
                    refuse,
                    load_number,
                ]
    program.append((_RET, 0, 0, _ALLOW))
    return program
