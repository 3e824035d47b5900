"""Three operators evolved on a device farm by synthesis alone, and the conformance kit on it.

    python tests/farm_accelerator/demo.py                  # the three operators, each on a device of its own
    python tests/farm_accelerator/demo.py --conformance    # the kit: the tiers that conformance.toml claims

A fake licence server runs, the farm's plugin is granted what it needs in a ``plugins.toml``, and every
launch waits five seconds (``--queue SECONDS``) in a queue. Prints a table; ``--json FILE`` writes it with
what made it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OPERATORS = ("bias_relu", "scaled_tanh", "row_energy")


def plugins_file(folder: Path, queue: float) -> Path:
    """A ``plugins.toml`` that lists the farm alone, with its grants."""
    file = folder / "plugins.toml"
    file.write_text(
        "schema = 1\n[plugins.farm]\n"
        f'path = "{HERE / "src" / "kevolve_farm" / "plugin.py"}"\noptions = {{queue_seconds = {queue}}}\n'
        '[plugins.farm.grants]\nnetwork = ["127.0.0.1:*"]\nenvironment = ["FARM_LICENCE"]\nqueue = 5.0\n'
    )
    return file


def evolved(operator: str, queue: float, candidates: int) -> dict[str, Any]:
    """One run; a row of the table."""
    from kevolve_core import evolve
    from kevolve_core.registry import discover

    with tempfile.TemporaryDirectory() as folder:
        registry = discover(plugins_file(Path(folder), queue))
        began = time.monotonic()
        result = evolve(
            HERE / "specs" / f"{operator}.yaml",
            backend="farm",
            registry=registry,
            budget=f"{candidates}c",
            out=Path(folder) / "run",
        )
        speedup = result.speedup
        return {
            "operator": operator,
            "speedup": None if speedup is None else round(speedup.value, 3),
            "against": next(iter(result.measurements.values())).best_baseline if result.measurements else "",
            "evidence": str(result.evidence),
            "improved": result.improved,
            "confirmed": result.confirmed,
            "language": result.kernel.language,
            "evaluations": result.search.evaluations,
            "seconds": round(time.monotonic() - began, 1),
        }


def side_by_side(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all operators, a process each: a farm has several accelerators, and one lock for each."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for operator in OPERATORS:
            file = Path(folder) / f"{operator}.json"
            command = [sys.executable, __file__, "--only", operator, "--json", str(file)]
            command += ["--queue", str(arguments.queue), "--candidates", str(arguments.candidates)]
            environment = {**os.environ, "XDG_CACHE_HOME": str(Path(folder) / operator)}
            running.append((file, subprocess.Popen(command, env=environment)))
        for _, process in running:
            process.wait()
        return [row for file, _ in running if file.exists() for row in json.loads(file.read_text())["rows"]]


def checked(queue: float) -> list[dict[str, Any]]:
    """A row for each check of the conformance kit."""
    from kevolve_core.registry import discover
    from kevolve_core.testing import run_suite, subject_of
    from kevolve_core.testing.suite import tiers_of

    def tell(check: Any) -> None:
        print(f"{check.outcome.value:<10} {check.id:<24} {check.seconds:7.1f} s  {check.message}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        subject = subject_of(discover(plugins_file(Path(folder), queue)), "farm")
        try:
            result = run_suite(subject, tiers_of(subject), on_check=tell)
        finally:
            subject.close()
    return [
        {"check": c.id, "tier": c.tier, "outcome": c.outcome.value, "seconds": round(c.seconds, 1)}
        for c in result.checks
    ]


def environment() -> dict[str, str]:
    """What made the table."""
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "device": "Farm 1, simulated",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queue", type=float, default=5.0, help="seconds a launch waits (5)")
    parser.add_argument("--conformance", action="store_true", help="the conformance kit instead")
    parser.add_argument("--candidates", type=int, default=4, help="of each search (4)")
    parser.add_argument("--only", choices=OPERATORS, help="only this operator")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sys.path[:0] = [str(HERE / "src"), str(HERE.parent / "toy_accelerator" / "src")]
    from kevolve_farm.licence_server import LicenceServer

    server = LicenceServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["FARM_LICENCE"] = server.address
    began = time.monotonic()
    if arguments.conformance:
        rows = checked(arguments.queue)
        total, correct = len(rows), sum(row["outcome"] in ("passed", "skipped") for row in rows)
    elif arguments.only:
        rows = [evolved(arguments.only, arguments.queue, arguments.candidates)]
        print("  ".join(f"{name} {value}" for name, value in rows[0].items()), flush=True)
        total, correct = 1, int(rows[0]["confirmed"])
    else:
        rows = side_by_side(arguments)
        total, correct = len(OPERATORS), sum(row["confirmed"] for row in rows)
    command = ["python", "tests/farm_accelerator/demo.py", *(["--conformance"] * arguments.conformance)]
    summary = {
        "correct": correct,
        "total": total,
        "queue_seconds": arguments.queue,
        "seconds": round(time.monotonic() - began, 1),
        "command": " ".join(command),
        "environment": environment(),
    }
    print(summary)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=2) + "\n")
    return 0 if correct == total else 1


if __name__ == "__main__":
    sys.exit(main())
