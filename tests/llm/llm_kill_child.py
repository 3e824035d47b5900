"""The process that gets killed: a search with a model over HTTP.

``HANG`` names where it stops and waits for its end: in an ``evaluation``, or before a reply's file is renamed
(``calls``).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench import Executor, generator, judge, search, settings_for

from kevolve_core.evolve import Budget
from kevolve_core.model import Candidate, Evaluation


def main(run: str, url: str) -> None:
    hang, marker, log = os.environ.get("HANG", ""), Path(run + ".hanging"), Path(run + ".log")

    def stop() -> None:
        marker.touch()
        time.sleep(60)

    def judged(candidate: Candidate, stages: tuple[str, ...]) -> Evaluation:
        if hang == "evaluation" and len(log.read_text().splitlines()) == 5:
            stop()
        with log.open("a") as out:
            out.write(f"{candidate.id} {stages[-1]}\n")
        return judge(candidate, stages)

    if hang == "calls":
        rename = os.replace

        def replace(source: Any, target: Any) -> None:
            if "/llm/calls/" in str(target) and len(list(Path(run).glob("llm/calls/*/*.json"))) == 5:
                stop()
            rename(source, target)

        os.replace = replace  # type: ignore[assignment]
    log.touch()
    # No attempt may be given up for the machine being busy: it would be paid for again without a kill.
    settings = settings_for(url, stall_timeout_s=60)
    search(Path(run), generator(settings), settings, executor=Executor(judged), budget=Budget(candidates=12))


if __name__ == "__main__":
    main(*sys.argv[1:])
