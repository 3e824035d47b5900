"""How long a first proposal takes: drawing inputs, capturing the graph, lowering, printing. A row an example.

    python benchmarks/capture.py [--json FILE]

Seconds in this process after its imports, the median of three; `draw` is the first tune case's inputs,
`capture` the graph of every case, `propose` everything from the specification to the first source.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kevolve_core.interfaces import Proposal
from kevolve_core.registry import discover
from kevolve_core.spec import load_spec
from kevolve_core.spec.runtime import draw_inputs
from kevolve_core.synth import SynthGenerator, graph_of

EXAMPLES = Path(__file__).parent.parent / "examples"


def seconds(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    registry = discover()
    backend, (device, *_) = registry.backend("cpu"), registry.devices("cpu")
    rows: list[dict[str, Any]] = []
    print(f"{'example':<18}{'draw':>8}{'capture':>9}{'propose':>9}   seconds")
    for path in sorted(EXAMPLES.glob("*.yaml")):
        spec = load_spec(path)
        case = spec.timed_cases[0]

        def propose(spec: Any = spec) -> object:
            generator = SynthGenerator(spec, backend.renderers(), backend.schedule_space, device)
            return generator.propose_now(Proposal(spec, device, 0, 0), 1)

        row = {
            "example": spec.name,
            "draw": seconds(lambda spec=spec, case=case: draw_inputs(spec, case, 1)),  # type: ignore[misc]
            "capture": seconds(lambda spec=spec: [graph_of(spec, c) for c in spec.cases]),  # type: ignore[misc]
            "propose": seconds(propose),
        }
        rows.append(row)
        print(f"{spec.name:<18}{row['draw']:>8.2f}{row['capture']:>9.2f}{row['propose']:>9.2f}")
    summary = {
        "total": len(rows),
        "worst": max(r["propose"] for r in rows),
        "environment": {
            "device": device.name,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": datetime.now(UTC).date().isoformat(),
        },
    }
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
