"""`run` and `resume`: one sitting of a run, from wherever it stands to its end, a stop or a fault."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import attrs

from kevolve_core.errors import ConfigError, KevolveError, StoreError
from kevolve_core.evolve.budget import Budget
from kevolve_core.evolve.events import Emitter, RunFinished, RunStarted, Subscriber
from kevolve_core.evolve.finish import enter, field_of, finish, outcome
from kevolve_core.evolve.result import RunResult, collect
from kevolve_core.evolve.search import Search
from kevolve_core.evolve.session import ActiveClock, SearchSettings, Session, StopRequestedError
from kevolve_core.evolve.steering import Memory
from kevolve_core.interfaces import CodeGenerator, Executor, SelectionPolicy
from kevolve_core.model import Device
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.store import RunInfo, RunStore
from kevolve_core.store.faults import damaged

__all__ = ["resume", "run"]

_POLL_SECONDS = 0.1  # how soon a stop is noticed during a finishing phase (estimated)
_STOPPED = "stopped before the finalists were confirmed; resume the run to go on"
_log = logging.getLogger("kevolve.evolve")


async def run(
    store: RunStore,
    *,
    device: Device,
    generator: CodeGenerator,
    policy: SelectionPolicy,
    executor: Executor,
    settings: SearchSettings,
    memory: Memory | None = None,
    on_event: Subscriber | None = None,
    stop: Callable[[], bool] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Search for a faster kernel of ``store.spec``, race and confirm the finalists.

    Everything is written to ``store`` as it happens; it stays open, and so does ``executor``. No signal
    handler is installed and nothing outlives the call. Cancelling the task, or ``stop`` returning True, ends
    the sitting with the best so far kept and the run resumable; on cancellation `CancelledError` goes on up
    and `collect` reads the result.

    Args:
        store: fresh from `RunStore.create`.
        device: handed to the generator.
        generator: proposes candidates; up to ``settings.window`` calls may be awaited at once.
        policy: a fresh one; its state is rebuilt from the store.
        executor: evaluates them.
        settings: seed, window, budget and stages.
        memory: what the run may remember of others, by lane; None for a run without lanes.
        on_event: called with each `Event`; what it raises is logged and contained.
        stop: polled about ten times a second.
        now: the clock, in seconds.

    Returns:
        The result. A fault of the installation or the store ends the run with what is stored and is in
        ``error``.

    Raises:
        StoreError: the store holds a run that has begun already.
    """
    info = store.info()
    if info.search is not None:
        raise StoreError(
            "this run has begun already", got=info.status, where=str(store.path), mend="use `kevolve resume`"
        )
    search = {
        "settings": to_plain(settings),
        "policy": policy.name,
        "generator": generator.name,
        "memory": None if memory is None else memory.mode,
        "experience": [] if memory is None else to_plain(memory.experience),
    }
    store.set_search(search)
    session = _session(
        store,
        info,
        settings,
        device,
        generator,
        policy,
        executor,
        memory,
        on_event=on_event,
        stop=stop,
        now=now,
    )
    return await _sit(session, resumed=False)


async def resume(
    store: RunStore,
    *,
    device: Device,
    generator: CodeGenerator,
    policy: SelectionPolicy,
    executor: Executor,
    settings: SearchSettings | None = None,
    memory: Memory | None = None,
    budget: Budget | None = None,
    on_event: Subscriber | None = None,
    stop: Callable[[], bool] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Go on with a run that was stopped, killed or ended by a fault.

    The policy is rebuilt by folding the stored proposals and evaluations. Proposals without an evaluation
    are submitted again; nothing that has one is ever evaluated or proposed again. The result is that of an
    undisturbed run with the same evaluations. A finished run returns its result at once. Language-model
    calls that a kill interrupted are made again, and what they had cost is not known.

    Args:
        settings: used only where the run was killed before it began; otherwise the stored ones hold.
        memory: of the mode that the run was begun with, with fresh lanes; its experience is the stored one.
        budget: replaces the stored budget, where the search is not over yet.
        (the others): as for `run`.

    Raises:
        ConfigError: another policy, generator or mode of memory than the run was begun with.
        StoreError: damaged, or never begun and no ``settings`` given.
    """
    info = store.info()
    if info.status == "finished":
        return collect(store)
    if info.search is None:
        if settings is None:
            raise StoreError(
                "this run was ended before it began", where=str(store.path), mend="start it anew elsewhere"
            )
        return await run(
            store,
            device=device,
            generator=generator,
            policy=policy,
            executor=executor,
            settings=settings if budget is None else attrs.evolve(settings, budget=budget),
            memory=memory,
            on_event=on_event,
            stop=stop,
            now=now,
        )
    mode = None if memory is None else memory.mode
    for part, name in (("policy", policy.name), ("generator", generator.name), ("memory", mode)):
        if info.search.get(part) != name:
            raise ConfigError(
                f"this run was begun with another {part}",
                got=name,
                where=str(store.path),
                mend=f"resume it with '{info.search.get(part)}'",
            )
    if memory is not None:
        memory = attrs.evolve(memory, experience=tuple(info.search.get("experience", ())))
    settings = _settings(store, info.search)
    if budget is not None and budget != settings.budget and info.phase == "search":
        settings = attrs.evolve(settings, budget=budget)
        store.set_search({**info.search, "settings": to_plain(settings)})
    session = _session(
        store,
        info,
        settings,
        device,
        generator,
        policy,
        executor,
        memory,
        on_event=on_event,
        stop=stop,
        now=now,
    )
    return await _sit(session, resumed=True)


def _settings(store: RunStore, search: Mapping[str, Any]) -> SearchSettings:
    try:
        return from_plain(SearchSettings, search["settings"])
    except Exception as error:
        raise damaged("the stored search settings cannot be read back", str(store.path), error) from error


def _session(
    store: RunStore,
    info: RunInfo,
    settings: SearchSettings,
    device: Device,
    generator: CodeGenerator,
    policy: SelectionPolicy,
    executor: Executor,
    memory: Memory | None,
    *,
    on_event: Subscriber | None,
    stop: Callable[[], bool] | None,
    now: Callable[[], float],
) -> Session:
    return Session(
        store=store,
        spec=store.spec,
        secret=info.secret,
        settings=settings,
        device=device,
        generator=generator,
        policy=policy,
        executor=executor,
        memory=memory,
        clock=ActiveClock(info.active_seconds, now),
        emit=Emitter(on_event),
        stop=stop,
    )


async def _sit(session: Session, *, resumed: bool) -> RunResult:
    """One sitting, whatever ends it."""
    store, clock = session.store, session.clock
    error: KevolveError | None = None
    stopped: str | None = None
    try:
        await _go_on(session, resumed)
        store.set_status("finished", active_seconds=clock.seconds(), reason=outcome(session))
    except StopRequestedError:
        stopped = "cancelled"
        _close(session, "interrupted", _STOPPED)
    except KevolveError as fault:
        error = fault
        _close(session, "failed", str(fault))
    except BaseException:
        _close(session, "interrupted", _STOPPED)
        raise
    result = collect(store, error=error, stopped=stopped)
    session.emit(RunFinished(result))
    return result


async def _go_on(session: Session, resumed: bool) -> None:
    store, clock = session.store, session.clock
    search = Search(session)
    info = store.info()
    if resumed and info.phase == "search":
        search.restore()
    session.emit(
        RunStarted(
            name=session.spec.name,
            seed=session.settings.seed,
            resumed=resumed,
            proposals=sum(store.counts().values()) if info.phase != "search" else search.proposals,
            seconds=clock.seconds(),
            phase=info.phase,
            finalists=field_of(session, info.phase),
            counts=store.counts(),
        )
    )
    store.set_status("running", active_seconds=clock.seconds())
    store.record_event("sitting", {"pid": os.getpid(), "resumed": resumed}, at_seconds=clock.seconds())
    stopped = info.stopped
    if info.phase == "search":
        stopped = await search.run()
        if stopped == "cancelled":
            raise StopRequestedError
        enter(session, "race", stopped)
    await _unless_stopped(session, finish(session, stopped))


async def _unless_stopped(session: Session, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``, polling for a stop."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=None if session.stop is None else _POLL_SECONDS)
            if not task.done() and session.stopping():
                raise StopRequestedError
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _close(session: Session, status: str, reason: str) -> None:
    """Leave the run resumable. A store that takes no more writes (full disk) leaves it as after a kill, which
    is just as resumable, so the fault that ended the run is the one to report."""
    seconds = session.clock.seconds()
    try:
        session.store.set_status(status, active_seconds=seconds, reason=reason)
        session.store.record_event(status, {"reason": reason}, at_seconds=seconds)
    except StoreError as second:
        _log.warning("the run's end could not be noted: %s", second.what)
