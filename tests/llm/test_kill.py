"""``kill -9`` during a request, an evaluation and a write: the run goes on, and nothing is paid for twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import kernel
from scripted import ScriptedServer, Seen

from kevolve_core.evolve import RunResult, collect
from kevolve_core.llm import Journal
from kevolve_core.store import RunStore

CHILD = Path(__file__).with_name("llm_kill_child.py")
ROOT = Path(__file__).resolve().parents[2]


def answer(seen: Seen) -> str:
    """By the prompt alone: equal requests get equal replies, as from a recording."""
    return kernel(int(seen.headers["idempotency-key"][-6:], 16))


def start(run: Path, server: ScriptedServer, hang: str = "") -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "HANG": hang,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    }
    return subprocess.Popen([sys.executable, str(CHILD), str(run), server.url], env=environment)


def finish(run: Path, server: ScriptedServer) -> RunResult:
    assert start(run, server).wait(120) == 0
    with RunStore.open_readonly(run) as store:
        return collect(store)


def killed(run: Path, server: ScriptedServer, hang: str, when: Callable[[], bool]) -> None:
    process = start(run, server, hang)
    deadline = time.monotonic() + 60
    while not when() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()


def answered(server: ScriptedServer) -> Counter[str]:
    """Requests that were answered in full, by key."""
    pairs = zip(server.seen, server.done, strict=True)
    return Counter(seen.headers["idempotency-key"] for seen, act in pairs if act == "ok")


def on_their_way(run: Path) -> set[str]:
    """Requests without a reply on disk at the kill."""
    noted = {f"kevolve-{note.name[:40]}" for note in run.glob("llm/flying/*.json")}
    there = {call.name.removeprefix(".")[:40] for call in run.glob("llm/calls/??/*") if whole(call)}
    return noted - {f"kevolve-{key}" for key in there}


def whole(call: Path) -> bool:
    """Whether the kill left all of a call's file: half a file is not taken over."""
    try:
        json.loads(call.read_text())
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("moment", ["request", "evaluation", "calls"])
def test_a_killed_run_goes_on_and_pays_for_nothing_twice(
    server: ScriptedServer, tmp_path: Path, moment: str
) -> None:
    server.answer = answer
    undisturbed = finish(tmp_path / "undisturbed", server)
    paid_once = answered(server)
    evaluated = (tmp_path / "undisturbed.log").read_text().splitlines()
    server.seen.clear()
    server.done.clear()
    run = tmp_path / "run"
    if moment == "request":
        server.script = ["ok"] * 6 + ["stall_long"]
        killed(run, server, "", lambda: "stall_long" in server.done)
    else:
        killed(run, server, moment, lambda: Path(f"{run}.hanging").exists())
    in_flight = on_their_way(run)
    with RunStore.open_readonly(run) as store:
        before = collect(store)
        steps = (step.evaluation for step in store.steps())
        stored = {row.candidate_id for row in steps if row is not None}
    if moment == "calls":
        (written,) = run.glob("llm/calls/??/.*.tmp")
        assert f"kevolve-{written.name[1:41]}" not in in_flight
    assert 0 < len(before.trajectory) < len(undisturbed.trajectory)
    result = finish(run, server)
    assert result.trajectory == undisturbed.trajectory
    assert (result.best, result.reason, result.counts) == (
        undisturbed.best,
        undisturbed.reason,
        undisturbed.counts,
    )
    again = answered(server)
    assert again.keys() == paid_once.keys()
    twice = {key for key, count in again.items() if count > 1}
    assert twice <= in_flight, "a reply that had arrived was paid for again"
    log = Path(f"{run}.log").read_text().splitlines()
    assert sorted(set(log)) == sorted(set(evaluated))
    repeated = {line.split()[0] for line, count in Counter(log).items() if count > 1}
    assert repeated & stored == set(), "a stored evaluation was paid for again"


def test_what_a_kill_left_in_flight_counts_at_its_upper_bound(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = answer
    server.script = ["ok"] * 3 + ["stall_long"]
    run = tmp_path / "run"
    killed(run, server, "", lambda: "stall_long" in server.done)
    journal = Journal(run)
    recorded = sum(call.cost.tokens for call in journal.calls())
    notes = list((run / "llm" / "flying").iterdir())
    assert notes
    assert all(re.fullmatch(r"[0-9a-f]{64}\.[0-9a-f]{12}\.json", note.name) for note in notes)
    assert journal.spent().tokens > recorded + len(notes) * 8192
    assert server.billed <= journal.spent().tokens
