"""What a backend leaves behind: processes that outlive their worker, files outside its scratch folder."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Leftovers"]


class Leftovers:
    """Looks for what workers with a scratch folder below ``workdir`` left on this machine (Linux)."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = str(workdir)
        self._places = tuple(dict.fromkeys((tempfile.gettempdir(), "/tmp", "/dev/shm", os.getcwd())))

    def processes(self) -> list[str]:
        """``pid command`` of every process of this user whose environment or folder is in the scratch folder:
        workers inherit it as HOME, and so does what they start."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                marked = self._workdir.encode() in (entry / "environ").read_bytes()
                marked = marked or os.readlink(entry / "cwd").startswith(self._workdir)
                if marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append(f"{entry.name} {command.strip()[:80]}")
            except OSError:
                continue  # not ours to read, or gone meanwhile
        return found

    def entries(self) -> set[str]:
        """Everything in the folders that all processes share: temporary ones, shared memory, this one."""
        found: set[str] = set()
        for place in self._places:
            try:
                found |= {f"{place}/{name}" for name in os.listdir(place)}
            except OSError:
                continue
        return found

    @staticmethod
    def stems(entries: Iterable[str]) -> dict[str, str]:
        """Entries by what is left of their name without numbers and random parts: two runs that leave the same
        kind of file are told from what other programs do meanwhile."""
        return {re.sub(r"[0-9a-fA-F]{6,}|\d+|(?<=[-_.])\w{6,10}$", "#", entry): entry for entry in entries}
