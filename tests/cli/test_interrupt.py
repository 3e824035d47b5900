"""Ctrl-C, from outside: the best so far is kept, and a second one ends the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import TOY
from tests.double import plugin as toy

_WAIT_S = 60.0


@pytest.fixture
def running(tmp_path: Path, probes: Path) -> subprocess.Popen[str]:
    """A search that has found something and would go on for an hour."""
    toy.write_files(tmp_path)
    command = [sys.executable, "-c", "from kevolve_core.cli import main; main()"]
    process = subprocess.Popen(
        [*command, "evolve", "spec.yaml", *TOY, "--budget", "1h", "--out", "run"],
        cwd=tmp_path,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(probes),
            "TOY_DELAY": "0.05",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    deadline = time.monotonic() + _WAIT_S
    for line in process.stdout:
        if "best so far 1." in line:
            return process
        assert time.monotonic() < deadline, "the search found nothing"
    pytest.fail(f"the search ended by itself: {process.stderr and process.stderr.read()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_best_so_far(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    running.send_signal(number)
    out, err = running.communicate(timeout=_WAIT_S)
    assert (running.returncode, err) == (130, "")
    assert "not yet confirmed" in out
    assert "kevolve resume" in out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["improved"], report["search"]["resumable"]) == (True, True)
    assert (tmp_path / "run" / "kernel.py").is_file()


def test_an_interrupted_run_resumes(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=_WAIT_S)
    before = json.loads((tmp_path / "run" / "report.json").read_text())
    code = (
        "import sys\nfrom kevolve_core.cli import main\n"
        f"main(['resume', 'run', '--budget', '{before['search']['evaluations'] + 4}c'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=_WAIT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (after["confirmed"], after["search"]["resumable"]) == (True, False)
    assert after["trajectory"][: len(before["trajectory"]) - 8] == before["trajectory"][:-8]


def test_a_second_interrupt_ends_the_process_at_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\nfrom kevolve_core.cli.interrupt import interruptible\n"
        "with interruptible(print):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=30, capture_output=True)
    assert done.returncode == 130


def test_handlers_are_put_back() -> None:
    from kevolve_core.cli.interrupt import interruptible

    before = signal.getsignal(signal.SIGINT)
    with interruptible(print):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
