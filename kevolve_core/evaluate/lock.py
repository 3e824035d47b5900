"""The device lock: timing is exclusive; on a device that shares the host, building is a reader beside other
builds.

Two files a device in the user's cache directory, locked with flock(2), so that it holds between processes and
a killed holder lets go. The first file is a turnstile that keeps a stream of builders from starving a timer.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kevolve_core.model import Device

__all__ = ["building", "cache_root", "timing"]


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/kevolve``, by default ``~/.cache/kevolve``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kevolve"


@contextmanager
def timing(device: Device) -> Iterator[None]:
    """Alone on ``device``: no other timing, and no building where it would disturb."""
    with _held(device, "queue", fcntl.LOCK_EX) as queue, _held(device, "device", fcntl.LOCK_EX):
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


@contextmanager
def building(device: Device) -> Iterator[None]:
    """Beside other builds; waits while someone times on a device that shares the host."""
    if not device.shares_host:
        yield
        return
    with _held(device, "queue", fcntl.LOCK_EX) as queue, _held(device, "device", fcntl.LOCK_SH):
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


@contextmanager
def _held(device: Device, kind: str, mode: int) -> Iterator[int]:
    folder = cache_root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]", "_", f"{device.backend}-{device.id}.{kind}")
    fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, mode)
        yield fd
    finally:
        os.close(fd)
