"""`kill -9` at random times: nothing stored is lost or repeated, and the run ends as if undisturbed.

What "repeated" means: an evaluation is stored once it has its row. None that is stored is ever run again. One
that was running at the kill, at most a window of them, is run once more on the same input seed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from evolve_fakes import CONFIRM, RACE, SEARCH, settings
from evolve_kill_child import sitting

from kevolve_core.errors import StoreError
from kevolve_core.evolve import RunResult, collect
from kevolve_core.store import RunStore

PHASES = {SEARCH: "search", RACE: "race", CONFIRM: "confirm"}
Stored = dict[tuple[str, int], tuple[Any, ...]]


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Forks of a process that has imported everything, so that a kill falls into the run and not into its
    imports. (The fork server looks for its preload on PYTHONPATH.)"""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["evolve_kill_child"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield context


def start(processes: ForkServerContext, run: Path, policy: str, slowness: float = 1.0) -> ForkServerProcess:
    process = processes.Process(target=sitting, args=(str(run), str(run) + ".log", policy, slowness))
    process.start()
    return process


def finish(processes: ForkServerContext, run: Path, policy: str) -> RunResult:
    process = start(processes, run, policy)
    process.join(60)
    assert process.exitcode == 0
    with RunStore.open_readonly(run) as store:
        return collect(store)


def stored(run: Path) -> Stored:
    """Every evaluation row, with its whole evaluation."""
    if not (run / "run.sqlite").exists():
        return {}
    rows: Stored = {}
    with RunStore.open_readonly(run) as store:
        steps = [step.evaluation for step in store.steps() if step.evaluation is not None]
        for row in (*steps, *store.evaluation_rows("race"), *store.evaluation_rows("confirm")):
            key = (row.phase, row.sequence)
            assert key not in rows
            rows[key] = (row.candidate_id, row.reused_from, store.evaluation(*key))
    return rows


def paid(run: Path) -> list[tuple[str, str, int]]:
    """(phase, candidate, input seed) of every evaluation that was run, in order; a line the kill cut short
    was not answered and does not count."""
    log = Path(str(run) + ".log")
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [(PHASES[tuple(e["stages"])], e["candidate"], e["seed"]) for e in entries]


class Disturbed:
    """A run that is killed again and again, with what was on disk at each kill."""

    def __init__(self, processes: ForkServerContext, run: Path, policy: str) -> None:
        self._processes, self._run, self._policy = processes, run, policy
        self._snapshots: list[tuple[Stored, int]] = []
        self.phases: list[str] = []
        self.settled: list[int] = []

    def kill(self, *, after: float = 0.0, once: Callable[[RunStore], bool] | None = None) -> None:
        """Kill a sitting ``after`` seconds, or once ``once`` holds: then it is slow enough to be caught."""
        process = start(self._processes, self._run, self._policy, 1.0 if once is None else 8.0)
        if once is not None:
            self._await(process, once)
        else:
            process.join(after)
        process.kill()
        process.join()
        if (self._run / "run.sqlite").exists():
            with RunStore.open_readonly(self._run) as store:
                self.phases.append(store.info().phase)
                self.settled.append(len(list(store.steps())))
        self._snapshots.append((stored(self._run), len(paid(self._run))))

    def _await(self, process: ForkServerProcess, holds: Callable[[RunStore], bool]) -> None:
        while process.is_alive():
            try:
                with RunStore.open_readonly(self._run) as store:
                    if holds(store):
                        return
            except StoreError:  # not created yet
                pass
            time.sleep(0.002)

    def finish_and_check(self, undisturbed: RunResult) -> None:
        result = finish(self._processes, self._run, self._policy)
        final, log = stored(self._run), paid(self._run)
        in_flight = 0
        for snapshot, logged in self._snapshots:
            assert {key: final.get(key) for key in snapshot} == snapshot, "a stored evaluation was lost"
            done = {(phase, row[0]) for (phase, _), row in snapshot.items() if row[1] is None}
            again = [entry for entry in log[logged:] if entry[:2] in done]
            assert again == [], "a stored evaluation was run again"
            in_flight += len({entry[:2] for entry in log[:logged]} - done)
        bought = {(phase, row[0]) for (phase, _), row in final.items() if row[1] is None}
        assert {entry[:2] for entry in log} == bought, "an evaluation that was run has no row"
        assert len(log) - len(bought) <= in_flight <= settings().window * len(self._snapshots)
        assert max(Counter(entry[:2] for entry in set(log)).values()) == 1, "repeated on another seed"
        assert result.trajectory == undisturbed.trajectory
        assert (result.best, result.evaluation, result.reason, result.counts) == (
            undisturbed.best,
            undisturbed.evaluation,
            undisturbed.reason,
            undisturbed.counts,
        )


@pytest.fixture(scope="module")
def undisturbed(
    processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunResult]:
    folder = tmp_path_factory.mktemp("undisturbed")
    results = {name: finish(processes, folder / name, name) for name in ("greedy", "evolutionary")}
    for name in results:
        with RunStore.open_readonly(folder / name) as store:
            assert len(store.evaluation_rows("confirm")) > 1, "the first confirmation should fail"
    return results


@pytest.fixture(scope="module")
def seconds(
    processes: ForkServerContext, undisturbed: dict[str, RunResult], tmp_path_factory: pytest.TempPathFactory
) -> float:
    """What a sitting takes on this machine, which decides where random kills fall."""
    del undisturbed  # by now the processes have imported everything
    folder, found = tmp_path_factory.mktemp("timed"), []
    for number in range(3):
        begun = time.monotonic()
        finish(processes, folder / str(number), "greedy")
        found.append(time.monotonic() - begun)
    return sorted(found)[1]


@pytest.mark.slow
def test_twenty_runs_killed_at_random_times_end_as_if_undisturbed(
    processes: ForkServerContext, undisturbed: dict[str, RunResult], seconds: float, tmp_path: Path
) -> None:
    """Kills fall before, within and after a sitting: twenty runs, and more until ten kills fell within."""
    within: list[int] = []
    for number in range(60):
        policy = ("greedy", "evolutionary")[number % 2]
        run = Disturbed(processes, tmp_path / f"run{number}", policy)
        rng = random.Random(number)
        for _ in range(rng.randint(1, 3)):
            run.kill(after=rng.uniform(0.0, seconds))
        run.finish_and_check(undisturbed[policy])
        within += [count for count in run.settled if 0 < count < len(undisturbed["greedy"].trajectory)]
        if number >= 19 and len(within) >= 10:
            return
    pytest.fail(f"too few kills fell into the search to prove anything: {within}")


def test_a_run_killed_three_times_in_its_search_ends_as_if_undisturbed(
    processes: ForkServerContext, undisturbed: dict[str, RunResult], tmp_path: Path
) -> None:
    run = Disturbed(processes, tmp_path / "run", "evolutionary")
    for count in (1, 11, 29):
        run.kill(once=lambda store, count=count: len(list(store.steps())) >= count)
    assert 1 <= run.settled[0] < run.settled[-1] < len(undisturbed["evolutionary"].trajectory)
    run.finish_and_check(undisturbed["evolutionary"])


@pytest.mark.parametrize("phase", ["race", "confirm"])
def test_a_run_killed_while_it_finishes_ends_as_if_undisturbed(
    phase: str, processes: ForkServerContext, undisturbed: dict[str, RunResult], tmp_path: Path
) -> None:
    run = Disturbed(processes, tmp_path / "run", "greedy")
    for count in range(3):
        run.kill(once=lambda store, count=count: _under_way(store, phase, count))
    assert run.phases == [phase] * 3
    run.finish_and_check(undisturbed["greedy"])


def _under_way(store: RunStore, phase: str, count: int) -> bool:
    return store.info().phase == phase and len(store.evaluation_rows(phase)) >= count


def test_the_undisturbed_runs_exercise_faults_and_failures(
    undisturbed: dict[str, RunResult],
) -> None:
    points = [point for result in undisturbed.values() for point in result.trajectory]
    assert any(point.candidate_id is None for point in points)
    assert all(result.duplicates > 0 for result in undisturbed.values())
    assert {"accepted", "compile_error", "wrong_result"} <= set(undisturbed["greedy"].counts)
    assert all(result.best is not None and result.confirmed for result in undisturbed.values())
