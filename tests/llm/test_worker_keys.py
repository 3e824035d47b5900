"""A key never reaches a worker: not its environment, files or memory, nor by a look at its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripted import ScriptedServer, Seen
from test_faults import KEY, numbered

HERE = Path(__file__).parent


def scanned(server: ScriptedServer, folder: Path, how: str) -> tuple[list[str], list[str]]:
    server.answer = numbered
    environment = {
        **os.environ,
        "CANARY_KEY": KEY,
        "OPENAI_API_KEY": KEY,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(HERE / "scan_child.py"), server.url, str(folder), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    searched, found = json.loads(done.stdout)
    return searched, found


def test_a_worker_finds_no_key_wherever_it_looks(server: ScriptedServer, tmp_path: Path) -> None:
    searched, found = scanned(server, tmp_path, "guarded")
    seen: list[Seen] = server.seen
    assert KEY in seen[0].headers["authorization"]
    assert {"os.environ", "/proc/self/environ", "memory of self"} <= set(searched)
    assert not [place for place in searched if place.startswith("memory of ") and place != "memory of self"]
    assert found == []


def test_the_scan_finds_a_key_that_lies_open(server: ScriptedServer, tmp_path: Path) -> None:
    """Without the guard the parent's environment is there to be read, and the scan says so."""
    _, found = scanned(server, tmp_path, "open")
    if not found:
        pytest.skip("this kernel shows no process the environment of another")
    assert any(place.endswith("/environ") for place in found)
