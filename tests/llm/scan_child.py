"""A process that holds a key and starts a worker, as `kevolve evolve` does. Prints where the worker found it.

python scan_child.py SERVER_URL FOLDER    (the key is in CANARY_KEY)
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

_KEY = re.compile(rb"sk-canary-[0-9a-f]{16}")  # does not match its own text


class Scanner:
    """A worker's role: looks for a key wherever its process can look."""

    def op_scan(self) -> tuple[Any, list[Any]]:
        """(places that were searched, those that hold a key)."""
        parent = os.getppid()
        files = [Path(f"/proc/{p}/{name}") for p in ("self", parent) for name in ("environ", "cmdline")]
        files += [file for file in Path.cwd().rglob("*") if file.is_file()]
        searched, found = ["os.environ"], []
        if _KEY.search(repr(dict(os.environb)).encode()):
            found.append("os.environ")
        for file in files:
            try:
                data = file.read_bytes()
            except PermissionError:
                continue
            searched.append(str(file))
            found += [str(file)] if _KEY.search(data) else []
        for process in ("self", parent):
            try:
                held = [place for place in _memory(process) if _KEY.search(place)]
            except PermissionError:
                continue
            searched.append(f"memory of {process}")
            found += [f"memory of {process}"] * bool(held)
        return [searched, found], []


def _memory(process: object) -> Any:
    """The readable and writable pages of a process, a mapping at a time."""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            bounds, mode = line.split()[:2]
            if mode.startswith("rw"):
                first, last = (int(end, 16) for end in bounds.split("-"))
                try:
                    memory.seek(first)
                    yield memory.read(min(last - first, 1 << 28))
                except OSError:
                    continue


def main(url: str, folder: Path, guarded: bool) -> None:
    import asyncio

    from bench import generator, proposal, settings_for

    from kevolve_core.cli.models import prepare_process
    from kevolve_core.isolate.process import WorkerProcess

    if guarded:
        prepare_process()
    made = generator(settings_for(url, key_env="CANARY_KEY"))
    made.open(folder / "run")

    async def ask() -> None:
        await made.propose(proposal(), 1)

    asyncio.run(ask())  # the key was sent: it is in this process's memory
    worker = WorkerProcess("scan_child:Scanner", {}, workdir=folder / "worker", drop_privileges=guarded)
    try:
        print(json.dumps(worker.call("scan").value))
    finally:
        worker.kill()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "guarded")
