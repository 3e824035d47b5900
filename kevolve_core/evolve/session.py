"""What one sitting of a run works with: settings, collaborators, the clock, and how an evaluation is
awaited."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

from attrs import field, frozen

from kevolve_core.errors import ConfigError, KevolveError, WorkerError
from kevolve_core.evolve.budget import Budget
from kevolve_core.evolve.events import Emitter
from kevolve_core.evolve.steering import Memory
from kevolve_core.interfaces import CodeGenerator, EvaluationRequest, Executor, SelectionPolicy
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Device, Evaluation
from kevolve_core.store import RunStore

__all__ = [
    "ActiveClock",
    "Composite",
    "Metered",
    "SearchSettings",
    "Session",
    "StopRequestedError",
    "Usage",
    "input_seed",
]


@frozen
class SearchSettings:
    """What fixes a run's way beside its spec, generator and policy. Stored with the run; resume uses it.

    Args:
        seed: of all random choices of policy and generator.
        window: how many proposals are in flight: before proposal ``i`` is asked for, exactly the evaluations
            of all proposals up to ``i - window`` have been told, in order.
        budget: when the search ends.
        attempts: how often a generator is asked again when it repeats known content.
        empties: the search is ``exhausted`` after so many proposals in a row that gave nothing.
        duplicates: … or so many in a row whose content was known.
        finalists: how many of the best are raced.
        search_stages, race_stages, confirm_stages: evaluation stages of each phase; an empty phase is left
            out and the one before it decides.
    """

    seed: int = 0
    window: int = 4
    budget: Budget = field(factory=Budget)
    attempts: int = 4
    empties: int = 8
    duplicates: int = 64
    finalists: int = 4
    search_stages: tuple[str, ...] = ()
    race_stages: tuple[str, ...] = ()
    confirm_stages: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        for name in ("window", "attempts", "empties", "duplicates", "finalists"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"the search setting '{name}' is not usable", got=value, mend="give 1 or more"
                )
        if not self.search_stages:
            raise ConfigError("no evaluation stage is named for the search", mend="set search_stages")


@frozen
class Usage:
    """What a generator has consumed since it was made."""

    tokens: int = 0
    money: float = 0.0


class StopRequestedError(Exception):
    """The caller's ``stop`` said so; never leaves this package."""


@runtime_checkable
class Metered(Protocol):
    """A generator that costs tokens or money has this method beside `CodeGenerator`'s; it never falls."""

    def usage(self) -> Usage: ...


@runtime_checkable
class Composite(Protocol):
    """A generator made of others, which answers for the one that `Proposal.part` names."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Their names, in a fixed order."""
        ...


class ActiveClock:
    """Seconds of activity over all sittings: those stored, plus this sitting's."""

    def __init__(self, stored: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._origin = now() - stored

    def seconds(self) -> float:
        return self._now() - self._origin


@frozen
class Session:
    """The collaborators of one sitting. ``stop`` is polled; True ends the sitting at once and resumably."""

    store: RunStore
    spec: KernelSpec
    secret: int
    settings: SearchSettings
    device: Device
    generator: CodeGenerator
    policy: SelectionPolicy
    executor: Executor
    memory: Memory | None
    clock: ActiveClock
    emit: Emitter
    stop: Callable[[], bool] | None = None

    def stopping(self) -> bool:
        return self.stop is not None and self.stop()

    async def evaluate(
        self, candidate: Candidate, stages: tuple[str, ...], phase: str, sequence: int
    ) -> Evaluation:
        """Run ``stages`` on ``candidate``.

        The input seed follows from the run's secret, the phase and the sequence, so that an evaluation which
        a kill interrupted is done again on the same inputs.

        Raises:
            KevolveError: a fault of the installation, not of the candidate.
        """
        request = EvaluationRequest(self.spec, candidate, stages, input_seed(self.secret, phase, sequence))
        try:
            future = self.executor.submit(request)
            evaluation = future.result() if future.done() else await _wrapped(future)
        except KevolveError:
            raise
        except Exception as error:
            raise WorkerError(
                "an evaluation ended without an answer",
                got=f"{type(error).__name__}: {error}",
                where=f"{phase} {sequence}, candidate {candidate.id}",
                mend="see the executor's log; `kevolve resume` goes on with what is stored",
            ) from error
        if evaluation.candidate_id != candidate.id:
            raise WorkerError(
                "an executor answered for another candidate than it was asked about",
                got=evaluation.candidate_id,
                where=f"{phase} {sequence}, candidate {candidate.id}",
                mend="report this to the executor's author",
            )
        return evaluation


async def _wrapped(future: Future[Evaluation]) -> Evaluation:
    """Await a concurrent future. That it was cancelled by its executor is a fault there; that this task was
    cancelled is not."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and task is not None and not task.cancelling():
            raise RuntimeError("the executor cancelled it") from None
        raise


def input_seed(secret: int, phase: str, sequence: int) -> int:
    """The seed of the request for one evaluation of a run: what a repeat of it has to give."""
    digest = hashlib.sha256(f"{secret}:{phase}:{sequence}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
