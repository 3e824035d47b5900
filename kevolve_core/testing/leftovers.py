"""What a backend leaves behind: processes that outlive their worker, files outside its scratch folder
(Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kevolve_core.evaluate.lock import cache_root

__all__ = ["files_left", "held_files", "processes_of"]

#: Never files of their own, or the system's.
_SYSTEM = ("/dev/", "/proc/", "/sys/", "/memfd:", "/SYSV", "/[")


def processes_of(workdir: Path) -> list[str]:
    """``pid command`` of every live process whose environment or working directory names ``workdir``: workers
    have it as HOME, and what they start inherits it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            marked = str(workdir).encode() in (entry / "environ").read_bytes()
            marked = marked or os.readlink(entry / "cwd").startswith(str(workdir))
            if marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{entry.name} {command.strip()[:80]}")
        except OSError:
            continue  # not ours to read, or gone meanwhile
    return found


def held_files(pid: int) -> list[str]:
    """Files that a process has open for writing or maps shared and writable."""
    found: dict[str, None] = {}
    process = Path(f"/proc/{pid}")
    try:
        for fd in (process / "fd").iterdir():
            flags = next(
                line.split()[1]
                for line in (process / "fdinfo" / fd.name).read_text().splitlines()
                if "flags" in line
            )
            if int(flags, 8) & (os.O_WRONLY | os.O_RDWR):
                found[os.readlink(fd)] = None
        for line in (process / "maps").read_text().splitlines():
            parts = line.split(maxsplit=5)
            if len(parts) == 6 and parts[1].endswith("s") and "w" in parts[1]:
                found[parts[5]] = None
    except OSError:
        return list(found)  # a worker that gave up its rights cannot be looked into
    return [path for path in found if path.startswith("/")]


def files_left(written: Iterable[str], workdir: Path) -> list[str]:
    """Those of ``written`` that still exist and lie neither in ``workdir`` nor in the user's cache folder."""
    spared = (f"{workdir}/", f"{cache_root().parent}/", *_SYSTEM)
    kept = [path for path in written if path.startswith("/dev/shm/") or not path.startswith(spared)]
    return [path for path in kept if os.path.lexists(path)]
