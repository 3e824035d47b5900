"""What the evolution loop itself costs: candidates per second with a null generator and a null evaluator.

    python benchmarks/loop_overhead.py [--openevolve-python PATH] [--json FILE]

A run of the real loop on a real store (SQLite and blobs on disk) for each population: 0, 1,000 and 10,000
candidates stored before. The generator returns a new 8-byte kernel at once, the evaluator accepts it at once
with a score; everything else is what a real run does: policy, duplicate check, proposal and evaluation rows
committed one by one, source blob, events. The populations take turns, one window of candidates each, so that
what else the machine does falls on all of them; the median over the windows counts. Beside wall time the CPU
time of the process is given, which a busy machine disturbs less. `flat` is the slowest population's rate over
the fastest's: 1.0 is perfectly flat, the aim is 0.8.

With --openevolve-python, the Python of an environment that has OpenEvolve, the same null work goes through
OpenEvolve's own loop: see openevolve_overhead.py for what exactly is replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy

from kevolve_core.evolve import Budget, SearchSettings, make_policy, run
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.kernelspec import KernelSpec, Reference
from kevolve_core.model import Candidate, Device, Evaluation, Evidence, Target, Verdict, VerdictKind
from kevolve_core.store import RunStore

SPEC = KernelSpec(name="null", reference=Reference("def f(x): return x", "f"), cases=())
DEVICE = Device("null:0", "null", "null", Target("null", "null"))


class Turns:
    """The null generator of one run; at every ``window``-th candidate it waits for its turn and notes when
    it got there."""

    name = "null"

    def __init__(self, population: int, window: int, windows: int) -> None:
        self.population, self._window = population, window
        self.total = population + window * windows
        self._go = asyncio.Event()
        self.reached = asyncio.Event()

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        del n
        past = context.sequence - self.population
        if past >= 0 and past % self._window == 0:
            self.reached.set()
            await self._go.wait()
            self._go.clear()
        return [
            Candidate(
                files={"k.py": f"X = {context.sequence}\n"},
                entry="k.py",
                language="null",
                parents=tuple(parent.id for parent in context.parents),
                genome={"x": context.sequence},
            )
        ]

    async def turn(self, run: asyncio.Task[Any]) -> tuple[float, float]:
        """Let one window pass; its (wall, CPU) seconds."""
        self.reached.clear()
        start = time.perf_counter(), time.process_time()
        self._go.set()
        reached = asyncio.create_task(self.reached.wait())
        await asyncio.wait([reached, run], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        return time.perf_counter() - start[0], time.process_time() - start[1]


class NullExecutor:
    """Accepts everything at once."""

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        identity = request.candidate.id
        score = int(identity[:8], 16) % 1000 / 500
        accepted = Verdict(VerdictKind.ACCEPTED)
        future.set_result(Evaluation(identity, accepted, score=score, evidence=Evidence.SIMULATED))
        return future

    def close(self) -> None:
        """Nothing is held."""


async def measure(
    folder: Path, policy: str, populations: Sequence[int], window: int, windows: int
) -> list[dict[str, Any]]:
    rounds = windows + 1  # the first does not count
    turns = [Turns(population, window, rounds) for population in populations]
    stores = [
        RunStore.create(folder / f"{policy}-{turn.population}", spec=SPEC, settings={}) for turn in turns
    ]
    runs = []
    for turn, store in zip(turns, stores, strict=True):
        settings = SearchSettings(budget=Budget(candidates=turn.total), search_stages=("null",))
        task = asyncio.create_task(
            run(
                store,
                device=DEVICE,
                generator=turn,
                policy=make_policy(policy),
                executor=NullExecutor(),
                settings=settings,
            )
        )
        await turn.reached.wait()
        runs.append(task)
    times: list[list[tuple[float, float]]] = [[] for _ in turns]
    for _ in range(rounds):
        for n, turn in enumerate(turns):
            times[n].append(await turn.turn(runs[n]))
    for result in await asyncio.gather(*runs):
        if result.error is not None:
            raise result.error
    for store in stores:
        store.close()
    return [
        {
            "system": "kevolve",
            "policy": policy,
            "population": turn.population,
            "candidates_per_s": median(window / wall for wall, _ in taken[1:]),
            "cpu_ms_per_candidate": median(1e3 * cpu / window for _, cpu in taken[1:]),
            "windows": [round(window / wall, 1) for wall, _ in taken[1:]],
            "window": window,
        }
        for turn, taken in zip(turns, times, strict=True)
    ]


def openevolve(python: str, populations: Sequence[int]) -> list[dict[str, Any]]:
    script = str(Path(__file__).with_name("openevolve_overhead.py"))
    command = [python, script, *map(str, populations)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"OpenEvolve could not be measured with {python}:\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        {
            "system": f"openevolve {row['version']}",
            "policy": "default",
            "population": row["population"],
            "candidates_per_s": median(row["windows"]),
            "stored": row["stored"],
            "windows": [round(rate, 2) for rate in row["windows"]],
        }
        for row in rows
    ]


def flatness(rows: Sequence[dict[str, Any]], key: str) -> float:
    values = [row[key] for row in rows]
    return min(values) / max(values)


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--populations", type=int, nargs="+", default=[0, 1000, 10000])
    parser.add_argument("--policies", nargs="+", default=["greedy", "evolutionary"])
    parser.add_argument("--window", type=int, default=100, help="candidates a window")
    parser.add_argument("--windows", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where the stores go (default: a temporary folder)")
    parser.add_argument("--openevolve-python", metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    flat: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for policy in arguments.policies:
            ours = asyncio.run(
                measure(Path(folder), policy, arguments.populations, arguments.window, arguments.windows)
            )
            flat[policy] = {
                "wall": flatness(ours, "candidates_per_s"),
                "cpu": flatness(ours, "cpu_ms_per_candidate"),
            }
            rows += ours
    if arguments.openevolve_python:
        rows += openevolve(arguments.openevolve_python, arguments.populations)
    print(f"{'system':<20}{'policy':<14}{'stored':>8}{'candidates/s':>14}{'CPU ms each':>13}")
    for row in rows:
        cpu = f"{row['cpu_ms_per_candidate']:.2f}" if "cpu_ms_per_candidate" in row else "-"
        print(
            f"{row['system']:<20}{row['policy']:<14}{row['population']:>8,}"
            f"{row['candidates_per_s']:>14.1f}{cpu:>13}"
        )
    for policy, values in flat.items():
        print(f"flat, {policy}: {values['wall']:.2f} by wall time, {values['cpu']:.2f} by CPU time")
    summary = {
        "flat": flat,
        "worst": min(values["wall"] for values in flat.values()),
        "command": " ".join(["python", "benchmarks/loop_overhead.py", *_shown(sys.argv[1:])]),
        "environment": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "sqlalchemy": sqlalchemy.__version__,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
        },
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


def _shown(words: Sequence[str]) -> list[str]:
    """The command's words without folders of this machine."""
    return [Path(word).name if word.startswith("/") else word for word in words]


if __name__ == "__main__":
    main()
