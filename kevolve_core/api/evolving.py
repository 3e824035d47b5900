"""`evolve`, `resume` and their async forms: one run from its parts to its report."""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from kevolve_core.api.controls import CONTROLS, caps_left, control_store
from kevolve_core.api.memory import memory_of, resumed_memory
from kevolve_core.api.parts import (
    HookedExecutor,
    Place,
    SpecLike,
    generator_of,
    open_executor,
    place,
    policy_of,
)
from kevolve_core.api.preparing import assembled, checked, notes, prepared
from kevolve_core.api.result import Result, gather, write_result
from kevolve_core.errors import ConfigError, KevolveError, StoreError
from kevolve_core.evolve import Budget, Event, Memory, RunResult, SearchSettings, collect
from kevolve_core.evolve import resume as resume_search
from kevolve_core.evolve import run as run_search
from kevolve_core.interfaces import CodeGenerator, Executor, Journaled, SelectionPolicy
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.registry import Registry
from kevolve_core.store import RunStore

__all__ = ["DEFAULT_BUDGET", "evolve", "evolve_async", "load_result", "resume", "resume_async"]

#: Enough for a first good kernel of a small operator (estimated).
DEFAULT_BUDGET = Budget(seconds=60.0)

Subscriber = Callable[[Event], None]
Stop = Callable[[], bool]

SEARCH_STAGES = ("rules", "compile", "small", "cases", "quick")
RACE_STAGES = ("compile", "race")
CONFIRM_STAGES = ("compile", "confirm", "holdout", "profile")


@frozen
class _Run:
    """Everything one sitting needs."""

    store: RunStore
    where: Place
    generator: CodeGenerator
    policy: SelectionPolicy
    executor: HookedExecutor
    settings: Mapping[str, Any]
    memory: Memory | None
    on_event: Subscriber
    stop: Stop | None


async def evolve_async(
    spec: SpecLike,
    *,
    backend: str | None = None,
    example_inputs: Sequence[Any] | None = None,
    budget: Budget | str = DEFAULT_BUDGET,
    seed: int = 0,
    policy: str | SelectionPolicy = "evolutionary",
    policy_options: Mapping[str, Any] | None = None,
    generator: str | CodeGenerator = "synth",
    generator_options: Mapping[str, Mapping[str, Any]] | None = None,
    executor: str | Executor = "local",
    seed_kernels: Sequence[Candidate | str | Path] = (),
    device: str | None = None,
    out: str | Path | None = None,
    registry: Registry | None = None,
    allow_degenerate: bool = False,
    memory: str = "split",
    controls: bool = False,
    on_event: Subscriber | None = None,
    stop: Stop | None = None,
) -> Result:
    """Evolve a kernel for ``spec`` and write its report.

    Several may run at once in one process. Nothing global is read or changed, no signal or logging handler is
    installed, and everything it started has ended when it returns or raises.

    Args:
        spec: a KernelSpec, the path of one, or a PyTorch function or module with ``example_inputs``.
        backend: where it shall run; None takes the only one that is ready.
        example_inputs: the positional arguments of one call, for a function or module.
        budget: a `Budget`, or its text: ``60s``, ``200c``, ``100c,5m``.
        seed: of every random choice of the search.
        policy: a name, or a fresh policy of the caller's own.
        generator: a name, several joined by ``+`` (``synth+llm``), or the caller's own generator.
        generator_options: options by generator's name, JSON values; they are stored with the run. Those of
            ``llm`` are `kevolve_core.llm.LlmSettings` through `kevolve_core.serial.to_plain`.
        executor: a name, or the caller's own executor, which stays open.
        seed_kernels: files, folders or candidates: the user's kernels, which are parents and baselines.
        device: a device's id; None takes the backend's first.
        out: the run's folder; None makes ``kevolve-runs/NAME-TIME`` in the working directory.
        registry: the plugins to use; None discovers installed ones.
        allow_degenerate: search a spec that accepts trivial answers all the same, and mark the result.
        memory: ``off``, ``warm`` or ``split``: whether proposals may use knowledge and what was learned on
            similar problems; split gives the budget to a lane with and a lane without, adaptively.
        controls: run independent sampling and random search afterwards, with as many evaluations each as the
            search had, and report whether it beat them.
        on_event: called in this thread with every `Event`.
        stop: polled; True ends the search and returns the best so far.

    Returns:
        The result, also when nothing beat the baseline or ``stop`` ended it early.

    Raises:
        KevolveError: a mistake in the arguments or a fault of the installation; what was found is kept in the
            run's folder.
        asyncio.CancelledError: the task was cancelled. The best so far and its report are in the run's
            folder first: `load_result` reads them and `resume` goes on. Use ``stop`` to get them returned.
    """
    note = notes(on_event)
    limits = Budget.parse(budget) if isinstance(budget, str) else budget
    folder = None if out is None else Path(out)
    if folder is not None:
        _refuse_taken(folder)
    secret = secrets.randbits(48)  # of input data: the same in every sitting, unknown to candidates
    wanted, where, chosen_policy, chosen_generator, opened = await asyncio.to_thread(
        assembled, spec, example_inputs, seed_kernels, backend, registry, device, seed, secret,
        (policy, policy_options), (generator, generator_options), executor, note,
    )  # fmt: skip
    memories = await asyncio.to_thread(memory_of, memory, where, wanted, chosen_generator)
    settings = {
        "memory": memories.mode if memories else None,
        "controls": controls,
        "named": isinstance(generator, str),
        "backend": where.backend_name,
        "device": where.device.id,
        "generator": chosen_generator.name,
        "generator_options": {name: dict(each) for name, each in (generator_options or {}).items()},
        "policy": chosen_policy.name,
        "policy_options": dict(policy_options or {}),
        "executor": executor if isinstance(executor, str) else "",
        "seed": seed,
        "secret": secret,
        "budget": {k: v for k, v in attrs.asdict(limits).items() if v is not None},
    }
    async with _closing(opened):
        settings["degenerate"] = await checked(opened, chosen_generator, allow_degenerate, stop, note)
        with RunStore.create(folder or _new_folder(wanted), spec=wanted, settings=settings) as store:
            sitting = _Run(
                store=store,
                where=where,
                generator=chosen_generator,
                policy=chosen_policy,
                executor=opened,
                settings=settings,
                memory=memories,
                on_event=_both(where.registry, on_event),
                stop=stop,
            )
            return await _sit_with_controls(sitting, search_settings(seed, limits), fresh=True)


async def resume_async(
    run: str | Path,
    *,
    budget: Budget | str | None = None,
    policy: SelectionPolicy | None = None,
    generator: CodeGenerator | None = None,
    executor: str | Executor | None = None,
    registry: Registry | None = None,
    on_event: Subscriber | None = None,
    stop: Stop | None = None,
) -> Result:
    """Go on with a run that was stopped, killed or ended by a fault. A finished run's result is read again.

    Args:
        run: the run's folder.
        budget: replaces the stored one while the search is not over.
        policy, generator, executor: needed again where the run was begun with the caller's own.
        (the others): as for `evolve_async`.

    Raises:
        KevolveError: there is no run, another process uses it, or its backend is not ready.
    """
    note = notes(on_event)
    limits = Budget.parse(budget) if isinstance(budget, str) else budget
    with RunStore.open(run) as store:
        settings = store.settings
        spec = store.spec
        where = place(None, settings["backend"], registry=registry, device=settings["device"])
        chosen = policy or policy_of(settings["policy"], settings["policy_options"], where.registry)
        if generator is None and not settings.get("named", True):
            raise _unnamed(settings["generator"], run)
        maker = generator or generator_of(
            settings["generator"], where, spec, settings.get("generator_options")
        )
        if not (name := executor or settings["executor"]):
            raise ConfigError("this run was begun with the caller's own executor", mend="pass executor=…")
        opened = open_executor(
            name, where, spec, seed=settings["seed"], secret=settings["secret"], on_note=note
        )
        async with _closing(opened):
            if store.info().status != "finished":
                await prepared([opened.warm_up], True, stop, note)
            sitting = _Run(
                store=store,
                where=where,
                generator=maker,
                policy=chosen,
                executor=opened,
                settings=settings,
                memory=resumed_memory(settings.get("memory")),
                on_event=_both(where.registry, on_event),
                stop=stop,
            )
            stored = search_settings(settings["seed"], Budget(**settings["budget"]))
            return await _sit_with_controls(sitting, stored, fresh=False, budget=limits)


def _unnamed(generator: str, run: str | Path) -> ConfigError:
    """Only its caller can make the run's generator again."""
    if generator == "submitted":
        return ConfigError(
            "an agent submits this run's candidates over MCP, and only there it can go on",
            where=str(run),
            mend="in `kevolve mcp`, start_run with this folder as `run` goes on and finish_run ends it",
        )
    return ConfigError(
        "this run was begun with the caller's own generator",
        got=generator,
        where=str(run),
        mend="pass it again: kevolve_core.resume(run, generator=…)",
    )


@asynccontextmanager
async def _closing(executor: HookedExecutor) -> AsyncIterator[None]:
    """Closes in a thread, since workers take a moment to end, and also when the task is cancelled."""
    try:
        yield
    finally:
        await asyncio.shield(asyncio.to_thread(executor.close))


async def _sit_with_controls(
    run: _Run, search: SearchSettings, *, fresh: bool, budget: Budget | None = None
) -> Result:
    """The run; when it has ended and controls are wanted, those, and the report again with them."""
    result = await _sit(run, search, fresh=fresh, budget=budget)
    if not run.settings.get("controls") or result.resumable:
        return result
    caps = budget or _stored_budget(run.store) or search.budget
    for name in CONTROLS:
        if run.stop is None or not run.stop():
            with control_store(run.store, run.settings, name, result.search.evaluations) as (store, begun):
                control = attrs.evolve(run, store=store, memory=None, on_event=_ignored)
                given = run.settings["generator"]
                options = run.settings.get("generator_options")
                named = run.settings["named"]
                maker = generator_of(given, run.where, store.spec, options) if named else run.generator
                policy = policy_of(name, None, run.where.registry)
                control = attrs.evolve(control, generator=maker, policy=policy, settings=store.settings)
                left = caps_left(run.store.path, caps, name)
                limit = attrs.evolve(Budget(**store.settings["budget"]), tokens=left.tokens, money=left.money)
                changed = limit if begun else None
                await _sit(control, attrs.evolve(search, budget=limit), fresh=not begun, budget=changed)
    return await _deliver(run, result.search)


def _ignored(_event: Event) -> None:
    """Events are the run's; its controls have none."""


async def _sit(run: _Run, search: SearchSettings, *, fresh: bool, budget: Budget | None = None) -> Result:
    """Search, then report, whatever ended the search."""
    common: dict[str, Any] = {
        "device": run.where.device,
        "generator": run.generator,
        "policy": run.policy,
        "executor": run.executor,
        "settings": search,
        "memory": run.memory,
        "on_event": run.on_event,
        "stop": run.stop,
    }
    try:
        async with _journal(run, budget or _stored_budget(run.store) or search.budget):
            if fresh:
                found = await run_search(run.store, **common)
            else:
                found = await resume_search(run.store, budget=budget, **common)
    except asyncio.CancelledError:
        await asyncio.shield(_deliver(run, collect(run.store)))
        raise
    if found.error is None:
        return await _deliver(run, found)
    try:
        await _deliver(run, found)
    except StoreError as second:  # one full disk, one message: that of what ended the run
        found.error.add_note(second.what)
    raise _kept(found.error, run.store.path)


def _stored_budget(store: RunStore) -> Budget | None:
    """That of the latest sitting; None before the first."""
    search = store.info().search
    return None if search is None else Budget(**search["settings"]["budget"])


@asynccontextmanager
async def _journal(run: _Run, budget: Budget) -> AsyncIterator[None]:
    """A generator that keeps a journal has it open for the sitting, and its connections end with it."""
    generator = run.generator
    if not isinstance(generator, Journaled):
        yield
        return
    generator.open(run.store.path, tokens=budget.tokens, money=budget.money)
    try:
        yield
    finally:
        await asyncio.shield(generator.close())


async def _deliver(run: _Run, found: RunResult) -> Result:
    """Read the store here, draw and write the report in a thread."""
    return await asyncio.to_thread(write_result, gather(run.store, found, run.where, run.settings))


def _kept(error: KevolveError, run: Path) -> KevolveError:
    advice = f"the run is kept: `kevolve resume {run}` goes on with it"
    error.mend = f"{error.mend}; {advice}" if error.mend else advice
    return error


def _both(registry: Registry, on_event: Subscriber | None) -> Subscriber:
    """Plugins that observe, then the caller."""

    def tell(event: Event) -> None:
        registry.emit(event)
        if on_event is not None:
            on_event(event)

    return tell


def _refuse_taken(folder: Path) -> None:
    """Before anything slow begins; `RunStore.create` decides."""
    try:
        RunStore.open_readonly(folder).close()
    except StoreError:  # no run there, as it should be
        return
    raise StoreError(
        "there is a run in this folder already",
        where=str(folder),
        mend=f"choose another folder, or go on with it: kevolve resume {folder}",
    )


def _new_folder(spec: KernelSpec) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.name).strip("-.") or "run"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("kevolve-runs", f"{name}-{stamp}-{secrets.token_hex(2)}")


def search_settings(seed: int, budget: Budget) -> SearchSettings:
    """The loop's settings of a run, with the stages of each phase."""
    return SearchSettings(
        seed=seed,
        budget=budget,
        finalists=3,
        search_stages=SEARCH_STAGES,
        race_stages=RACE_STAGES,
        confirm_stages=CONFIRM_STAGES,
    )


def load_result(run: str | Path, *, registry: Registry | None = None) -> Result:
    """The result of a run as it stands, also while another process goes on with it. Writes its report again.

    Raises:
        KevolveError: there is no run in that folder, or its backend is not ready.
    """
    with RunStore.open_readonly(run) as store:
        settings = store.settings
        where = place(None, settings["backend"], registry=registry, device=settings["device"])
        return write_result(gather(store, collect(store), where, settings))


def evolve(spec: SpecLike, **options: Any) -> Result:
    """`evolve_async` for code that is not asynchronous; the same arguments. Also works where an event loop is
    running, as in a notebook.

    Raises:
        KeyboardInterrupt: Ctrl-C. The best so far is in the run's folder first: `load_result` reads it.
    """
    return _in_thread(lambda stop: evolve_async(spec, **options, stop=stop), options.pop("stop", None))


def resume(run: str | Path, **options: Any) -> Result:
    """`resume_async` for code that is not asynchronous; the same arguments."""
    return _in_thread(lambda stop: resume_async(run, **options, stop=stop), options.pop("stop", None))


def _in_thread(start: Callable[[Stop], Coroutine[Any, Any, Result]], stop: Stop | None) -> Result:
    """Run a coroutine in a thread's own event loop: no signal handler, and no clash with a running loop."""
    interrupted = threading.Event()
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(
                asyncio.run(start(lambda: interrupted.is_set() or (stop is not None and stop())))
            )
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="kevolve-run", daemon=True)
    thread.start()
    try:
        return outcome.result()
    except KeyboardInterrupt:
        interrupted.set()
        thread.join()
        raise
