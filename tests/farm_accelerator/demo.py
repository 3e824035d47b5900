"""Three operators evolved on a device farm by synthesis alone: ``python tests/farm_accelerator/demo.py``.

A fake licence server runs, the farm's plugin is granted what it needs in a ``plugins.toml``, and every
launch waits five seconds (``--queue SECONDS``) in a queue. Prints a table; ``--json FILE`` writes it with
what made it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue", type=float, default=5.0, help="seconds a launch waits (5)")
    parser.add_argument("--candidates", type=int, default=4, help="of each search (4)")
    parser.add_argument("--only", choices=OPERATORS, action="append", help="only this operator")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sys.path[:0] = [str(HERE / "src"), str(HERE.parent / "toy_accelerator" / "src")]
    from kevolve_farm.licence_server import LicenceServer

    server = LicenceServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["FARM_LICENCE"] = server.address
    rows = []
    for operator in arguments.only or OPERATORS:
        rows.append(evolved(operator, arguments.queue, arguments.candidates))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    summary = {
        "queue_seconds": arguments.queue,
        "licences_granted": len(server.granted),
        "correct": sum(row["confirmed"] for row in rows),
        "total": len(rows),
    }
    print(summary)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=2) + "\n")
    return 0 if summary["correct"] == summary["total"] else 1


if __name__ == "__main__":
    sys.exit(main())
