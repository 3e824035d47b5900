"""Runs that end before their time: nothing is lost, nothing is left running."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

import kevolve_core
from kevolve_core.evolve import Evaluated, Event, NewBest
from tests.e2e.conftest import command, environment, kevolve, running, workers, write_spec

pytestmark = pytest.mark.slow


def started(spec: Path, run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("evolve", spec, "--backend", "cpu", "--budget", "40c", "--out", run),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )


def until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f"'{words}' was not printed:\n{''.join(lines)}")


def evaluations(run: Path) -> set[tuple[int, str, float]]:
    query = "select sequence, body, at_seconds from evaluations where phase = 'search'"
    with sqlite3.connect(run / "run.sqlite") as store:
        return set(store.execute(query).fetchall())


def assert_gone(pids: list[int]) -> None:
    assert pids
    deadline = time.monotonic() + 5
    while any(map(running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if running(pid)] == []


def test_a_killed_run_leaves_no_worker_is_locked_while_it_runs_and_resumes_without_repeating(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    process = started(write_spec(tmp_path), run)
    until(process, "best so far")
    second = kevolve("resume", run)
    assert second.code == 2
    assert "another process" in second.err
    pids = workers(process.pid)
    process.kill()
    process.wait()
    assert_gone(pids)
    before = evaluations(run)
    assert before

    process = subprocess.Popen(
        command("resume", run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    until(process, "resumed after")
    pids = workers(process.pid)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - asked < 20
    assert f"kevolve resume {run}" in out
    assert (run / "kernel.py").exists()
    assert (run / "report.md").exists()
    assert_gone(pids)
    assert before <= evaluations(run)


def test_a_cancelled_task_keeps_the_best_and_another_run_of_the_process_goes_on(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    seen: list[Event] = []

    async def both() -> kevolve_core.Result:
        found = asyncio.Event()

        def watch(event: Event) -> None:
            seen.append(event)
            if isinstance(event, NewBest):
                found.set()

        first = asyncio.create_task(
            kevolve_core.evolve_async(spec, backend="cpu", budget="40c", out=tmp_path / "a", on_event=watch)
        )
        other = asyncio.create_task(
            kevolve_core.evolve_async(spec, backend="cpu", budget="2c", seed=1, out=tmp_path / "b")
        )
        await asyncio.wait_for(found.wait(), 120)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await other

    other = asyncio.run(both())
    assert other.search.evaluations == 2
    kept = kevolve_core.load_result(tmp_path / "a")
    assert kept.resumable
    assert kept.search.evaluations >= sum(isinstance(event, Evaluated) for event in seen) >= 1
