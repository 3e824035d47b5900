"""The same null work through OpenEvolve, run by its own Python: a helper of ``loop_overhead.py``.

What is measured is OpenEvolve's own ``ProcessParallelController.run_evolution`` on a ``ProgramDatabase`` that
already holds POPULATION programs: sampling a parent, the snapshot, its way to a worker process, the result's
way back, ``database.add``, island bookkeeping. Only the worker's body (prompt, language model, evaluation) is
replaced by one that returns a new program at once. Two workers, default database settings except
``population_size``, which is raised so that the population can reach the asked size (its default is 1,000).

Prints one JSON object a population: {"population", "stored", "windows": [candidates per second, …]}, where
``stored`` is what its database holds after ``population`` programs were added (it drops some).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time
import uuid
from importlib.metadata import version
from typing import Any

from openevolve import process_parallel
from openevolve.config import Config
from openevolve.database import Program, ProgramDatabase


def program(number: int, island: int, parent: str | None = None) -> Program:
    """A program as small as the null candidate on our side, with a score."""
    score = random.Random(number).random()
    return Program(
        id=str(uuid.uuid4()),
        code=f"X = {number}\n",
        language="python",
        parent_id=parent,
        iteration_found=number,
        metrics={"combined_score": score},
        metadata={"island": island},
    )


def null_worker(
    iteration: int, snapshot: dict[str, Any], parent_id: str, inspiration_ids: list[str]
) -> process_parallel.SerializableResult:
    """Instead of prompt, model and evaluation."""
    del inspiration_ids
    island = snapshot["sampling_island"]
    return process_parallel.SerializableResult(
        child_program_dict=program(iteration, island, parent_id).to_dict(),
        parent_id=parent_id,
        iteration=iteration,
        target_island=island,
    )


def measure(population: int, window: int, windows: int) -> dict[str, Any]:
    config = Config()
    config.evaluator.parallel_evaluations = 2
    config.database.population_size = population + window * windows + 1000
    database = ProgramDatabase(config.database)
    for number in range(max(1, population)):
        database.add(program(number, number % config.database.num_islands), iteration=number)
    controller = process_parallel.ProcessParallelController(config, "", database)
    controller.start()
    stored = len(database.programs)
    rates = []
    try:
        for n in range(windows + 1):  # the first window starts the workers and does not count
            start = time.perf_counter()
            asyncio.run(controller.run_evolution(population + 1 + n * window, window))
            rates.append(window / (time.perf_counter() - start))
    finally:
        controller.stop()
    return {
        "population": population,
        "stored": stored,
        "windows": rates[1:],
        "version": version("openevolve"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("populations", type=int, nargs="+")
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--windows", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    process_parallel._run_iteration_worker = null_worker
    for population in arguments.populations:
        print(json.dumps(measure(population, arguments.window, arguments.windows)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
