"""The process that gets killed: the real loop on a real store, every paid evaluation logged before it is
answered."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path

from evolve_fakes import CONFIRM, DEVICE, RACE, SPEC, FakeExecutor, FakeGenerator, judge, settings

from kevolve_core.evolve import make_policy, resume
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.model import Evaluation
from kevolve_core.store import RunStore

FINISHING_SECONDS = 0.02  # makes race and confirm long enough to be hit


def recorded(candidate_id: str, stages: tuple[str, ...]) -> Evaluation:
    """As `judge`, but the fastest of the race do not hold their promise, so several are confirmed."""
    if stages != CONFIRM:
        return judge(candidate_id, stages)
    raced = judge(candidate_id, RACE).score or 0.0
    return judge(candidate_id, stages, 0.9 if raced > 1.2 else 1.2)


def sitting(directory: str, log: str, policy: str, slowness: float = 1.0) -> None:
    """Begin the run in ``directory``, or go on with it, to its end; all naps times ``slowness``."""
    path = Path(directory)
    store = (
        RunStore.open(path)
        if (path / "run.sqlite").exists()
        else RunStore.create(path, spec=SPEC, settings={"policy": policy})
    )
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def answer(request: EvaluationRequest) -> Evaluation:
        if request.stages in (RACE, CONFIRM):
            time.sleep(random.uniform(0.5, 1.5) * FINISHING_SECONDS * slowness)
        evaluation = recorded(request.candidate.id, request.stages)
        line = {"stages": request.stages, "candidate": request.candidate.id, "seed": request.seed}
        os.write(descriptor, (json.dumps(line) + "\n").encode())
        os.fsync(descriptor)
        return evaluation

    executor = FakeExecutor(sleep=0.005 * slowness, answer=answer)
    with store:
        asyncio.run(
            resume(
                store,
                device=DEVICE,
                generator=FakeGenerator(fails=9, sleep=0.002),
                policy=make_policy(policy),
                executor=executor,
                settings=settings(finalists=6, attempts=1),
            )
        )
    executor.close()
