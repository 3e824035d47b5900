"""Worker processes: answers, faults, limits, and what they may not do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kevolve_core.errors import WorkerError
from kevolve_core.isolate.process import Limits, RemoteError, WorkerProcess


def start(tmp_path: Path, role: str = "Echo", **more: object) -> WorkerProcess:
    options = {"config": {}, **more}
    return WorkerProcess(f"tests.isolate.roles:{role}", workdir=tmp_path, **options)  # type: ignore[arg-type]


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[WorkerProcess]:
    worker = start(tmp_path, config={"greeting": "hi"})
    yield worker
    worker.kill()


def test_a_worker_answers(echo: WorkerProcess) -> None:
    assert echo.call("greet").value == "hi"


def test_an_exception_leaves_the_worker_alive(echo: WorkerProcess) -> None:
    with pytest.raises(RemoteError) as caught:
        echo.call("raise")
    assert (caught.value.type, caught.value.kind) == ("ValueError", "exception")
    assert "as asked" in str(caught.value)
    assert echo.call("greet").value == "hi"


def test_a_hang_is_a_timeout_and_ends_the_worker(echo: WorkerProcess) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        echo.call("hang", limits=Limits(seconds=0.5))
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 5
    assert not echo.alive


def test_a_crash_says_the_signal_and_the_last_words(echo: WorkerProcess) -> None:
    with pytest.raises(WorkerError, match="SIGSEGV") as caught:
        echo.call("die")
    assert caught.value.kind == "crash"
    assert "last words" in str(caught.value.got)


def test_eating_memory_is_stopped(echo: WorkerProcess) -> None:
    with pytest.raises(WorkerError, match="memory") as caught:
        echo.call("eat", limits=Limits(30.0, 1 << 30))
    assert caught.value.kind == "out_of_memory"


def test_a_dead_worker_refuses_further_requests(echo: WorkerProcess) -> None:
    echo.kill()
    with pytest.raises(WorkerError, match="closed"):
        echo.call("greet")


def test_a_role_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no constructor"):
        start(tmp_path, "Broken")


def test_the_parents_environment_is_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    worker = start(tmp_path, environment={"GIVEN": "1"})
    environment = worker.call("environment").value
    worker.kill()
    assert "SECRET_KEY" not in environment
    assert environment["GIVEN"] == "1"
    assert environment["HOME"] == str(tmp_path)


def test_a_worker_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path\n"
        "from kevolve_core.isolate.process import WorkerProcess\n"
        "w = WorkerProcess('tests.isolate.roles:Echo', {}, workdir=Path(sys.argv[1]))\n"
        "print(w.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_confined_worker_may_only_compute(tmp_path: Path) -> None:
    worker = start(tmp_path, "Confined", drop_privileges=True)
    report, allowed = worker.call("report").value, worker.call("allowed").value
    worker.kill()
    if report.startswith("no system-call filter"):
        pytest.skip(report)
    assert allowed == ["read a file", "signal itself", "a thread", "anonymous memory"]
