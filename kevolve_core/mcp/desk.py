"""Runs whose candidates an agent submits: the ordinary search, with the agent as the generator."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from kevolve_core.api import Result, evolve_async, resume_async
from kevolve_core.api.parts import Place
from kevolve_core.errors import KevolveError, StoreError, UnknownNameError
from kevolve_core.evolve import Budget, Event
from kevolve_core.evolve.events import Evaluated, ProposalFailed, RunStarted
from kevolve_core.interfaces import Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry
from kevolve_core.store import RunStore

__all__ = ["Desk", "Submissions"]


class Submissions:
    """A generator that proposes what is submitted, in that order."""

    name = "submitted"

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[Candidate, asyncio.Future[int]] | None] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._end: str = ""

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        """The next submission, awaited; nothing once the desk is closed. A repeated one is not asked for
        again: the search records that it is known."""
        del n
        if context.attempt:
            return ()
        item = await self._queue.get()
        if item is None:
            self._queue.put_nowait(None)  # the next proposal in flight ends by it too
            return ()
        candidate, answer = item
        self._waiting[context.sequence] = answer
        return (candidate,)

    async def submit(self, candidate: Candidate) -> int:
        """The sequence under which the search evaluated ``candidate``. Raises StoreError when the search
        ends without it."""
        if self._end:
            raise _over(self._end)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((candidate, answer))
        return await answer

    def hear(self, event: Event) -> None:
        """Answers submissions as their evaluations are stored."""
        if isinstance(event, Evaluated) and event.phase == "search":
            answer = self._waiting.pop(event.sequence, None)
            if answer is not None and not answer.done():
                answer.set_result(event.sequence)
        elif isinstance(event, ProposalFailed):
            answer = self._waiting.pop(event.sequence, None)
            if answer is not None and not answer.done():
                answer.set_exception(StoreError("the candidate was not taken", got=event.fault))

    def close(self, reason: str, *, exhausted: bool = True) -> None:
        """No more submissions; those that nobody will evaluate are told so. ``exhausted`` lets the search end
        for want of proposals; otherwise it waits to be stopped."""
        if self._end:
            return
        self._end = reason
        unheard = list(self._waiting.values())
        while not self._queue.empty():
            item = self._queue.get_nowait()
            unheard += [item[1]] if item is not None else []
        for answer in unheard:
            if not answer.done():
                answer.set_exception(_over(reason))
        if exhausted:
            self._queue.put_nowait(None)


class _Live:
    """One run of the desk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submissions = Submissions()
        self.started = asyncio.Event()
        self.stopping = False
        self.task: asyncio.Task[Result] | None = None

    def hear(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.started.set()
        self.submissions.hear(event)

    async def begin(self, task: asyncio.Task[Result]) -> None:
        """Return when the search has begun; raise what kept it from that."""
        self.task = task
        task.add_done_callback(lambda _done: self.submissions.close("the run has ended"))
        ready = asyncio.ensure_future(self.started.wait())
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if task.done():
            task.result()


class Desk:
    """The live runs of one server, by folder."""

    def __init__(self, registry: Registry, executor: str = "local") -> None:
        self._registry, self._executor = registry, executor
        self._live: dict[str, _Live] = {}

    async def start(
        self, spec: KernelSpec, where: Place, budget: Budget, seed: int, folder: Path | None
    ) -> Path:
        """Begin a run that waits for candidates; returns its folder when baselines are ready."""
        live = _Live(folder or _new_folder(spec))
        await live.begin(
            asyncio.create_task(
                evolve_async(
                    spec,
                    backend=where.backend_name,
                    device=where.device.id,
                    registry=self._registry,
                    budget=budget,
                    seed=seed,
                    policy="greedy",
                    generator=live.submissions,
                    executor=self._executor,
                    out=live.folder,
                    on_event=live.hear,
                    stop=lambda: live.stopping,
                )
            )
        )
        return self._keep(live)

    async def reopen(self, folder: Path) -> Path:
        """Go on with an unfinished run, with the agent as its generator. Raises StoreError for a finished
        one."""
        with RunStore.open_readonly(folder) as store:
            if store.info().phase != "search":
                raise StoreError(
                    "the search of this run is over", where=str(folder), mend="start a new run for its spec"
                )
        live = _Live(folder)
        await live.begin(
            asyncio.create_task(
                resume_async(
                    folder,
                    generator=live.submissions,
                    registry=self._registry,
                    on_event=live.hear,
                    stop=lambda: live.stopping,
                )
            )
        )
        return self._keep(live)

    async def submit(self, run: str, candidate: Candidate) -> tuple[int, Evaluation]:
        """The candidate's sequence in the run, and its evaluation."""
        live = self._find(run)
        sequence = await live.submissions.submit(candidate)
        with RunStore.open_readonly(live.folder) as store:
            evaluation = store.evaluation("search", sequence)
        if evaluation is None:
            raise StoreError("the evaluation is not in the run", got=sequence, where=str(live.folder))
        return sequence, evaluation

    async def finish(self, run: str) -> Result:
        """End the search: the best are raced, confirmed and checked on the holdout cases."""
        live = self._find(run)
        assert live.task is not None
        live.submissions.close("the run is being finished")
        try:
            return await live.task
        finally:
            self._live.pop(str(live.folder), None)

    async def close(self) -> None:
        """Stop all runs resumably."""
        for live in self._live.values():
            live.stopping = True
            live.submissions.close("the server is closing", exhausted=False)
        tasks = [live.task for live in self._live.values() if live.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._live.clear()

    def _keep(self, live: _Live) -> Path:
        self._live[str(live.folder)] = live
        return live.folder

    def _find(self, run: str) -> _Live:
        if run in self._live:
            return self._live[run]
        raise UnknownNameError(
            "no run of this server is waiting for candidates under this name",
            got=run,
            mend=f"live are: {', '.join(self._live)}" if self._live else "begin one with start_run",
        )


def _over(reason: str) -> KevolveError:
    return StoreError("the candidate was not evaluated", got=reason, mend="start a new run for it")


def _new_folder(spec: KernelSpec) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name).strip("-.") or "run"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("kevolve-runs", f"{name}-{stamp}-{secrets.token_hex(2)}")
