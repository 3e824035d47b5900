"""Whole runs through the command line, in processes of their own, on the CPU and tiny specifications."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from attrs import frozen

SOFTMAX = """\
kevolve: 1
name: softmax
reference:
  python: |
    import torch


    def softmax(x):
        return {body}
inputs:
  x: {{shape: [ROWS, C]}}
cases:
  - {{name: small, sizes: {{ROWS: 256, C: 512}}}}
  - {{name: long, role: holdout, sizes: {{ROWS: 33, C: 700}}}}
"""


@frozen
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "kevolve_core.cli", *map(str, arguments)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's, with this process's import path."""
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(extra or {})}


def kevolve(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    timeout: float = 240,
    cwd: Path | None = None,
) -> Done:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, env=environment(env), cwd=cwd
    )
    return Done(done.returncode, done.stdout, done.stderr)


def write_spec(folder: Path, body: str = "torch.softmax(x, -1)") -> Path:
    path = folder / "softmax.yaml"
    path.write_text(SOFTMAX.format(body=body))
    return path


def workers(parent: int) -> list[int]:
    """Worker processes that ``parent`` started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[1]) == parent and stat[0] != "Z":
                found.append(int(entry.name))
    return found


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done, Path]:
    """A finished run of four candidates: its folder, what was printed, its specification."""
    folder = tmp_path_factory.mktemp("finished")
    spec = write_spec(folder)
    run = folder / "run"
    done = kevolve("evolve", spec, "--backend", "cpu", "--budget", "4c", "--out", run)
    assert done.code == 0, done.err
    return run, done, spec
