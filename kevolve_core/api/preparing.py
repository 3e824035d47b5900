"""Before a search: from the arguments to working parts, and the checks that need the device."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kevolve_core.api.parts import (
    HookedExecutor,
    Place,
    SpecLike,
    as_spec,
    generator_of,
    open_executor,
    place,
    policy_of,
)
from kevolve_core.errors import DegenerateSpecError
from kevolve_core.evolve import Event, Preparing
from kevolve_core.evolve.events import Emitter
from kevolve_core.interfaces import Checked, CodeGenerator, Executor, SelectionPolicy
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.registry import Registry

__all__ = ["assembled", "checked", "notes", "prepared"]

_POLL_S = 0.05  # how soon a stop is noticed before the search begins (estimated)


def assembled(
    spec: SpecLike,
    example_inputs: Sequence[Any] | None,
    seed_kernels: Sequence[Candidate | str | Path],
    backend: str | None,
    registry: Registry | None,
    device: str | None,
    seed: int,
    secret: int,
    policy: tuple[str | SelectionPolicy, Mapping[str, Any] | None],
    generator: tuple[str | CodeGenerator, Mapping[str, Mapping[str, Any]] | None],
    executor: str | Executor,
    note: Callable[[str], None],
) -> tuple[KernelSpec, Place, SelectionPolicy, CodeGenerator, HookedExecutor]:
    """What blocks before a run begins (imports, probes, starting workers), in a thread of its own."""
    wanted = as_spec(spec, example_inputs=example_inputs, seed_kernels=seed_kernels)
    where = place(wanted, backend, registry=registry, device=device)
    if executor == "local":  # others may build elsewhere
        compiler = where.backend.compiler(where.device)
        if isinstance(compiler, Checked):
            compiler.check()
    chosen_policy = policy_of(*policy, where.registry)
    chosen_generator = generator_of(generator[0], where, wanted, generator[1])
    opened = open_executor(executor, where, wanted, seed=seed, secret=secret, on_note=note)
    return wanted, where, chosen_policy, chosen_generator, opened


async def checked(
    executor: HookedExecutor,
    generator: CodeGenerator,
    allow_degenerate: bool,
    stop: Callable[[], bool] | None,
    note: Callable[[str], None],
) -> bool:
    """Whether the spec accepts trivial answers, which is an error unless it is allowed. The generator's own
    check (that it can do anything with the spec) and the warm-up run beside it."""
    works = [executor.check_spec, executor.warm_up]
    if isinstance(generator, Checked):
        works.append(generator.check)
    return await prepared(works, allow_degenerate, stop, note)


async def prepared(
    works: Sequence[Callable[[], None]],
    allow_degenerate: bool,
    stop: Callable[[], bool] | None,
    note: Callable[[str], None],
) -> bool:
    """Run ``works``, each in a thread, until they are done, one raises or ``stop`` says so; whether one found
    the spec degenerate."""
    checking = [asyncio.create_task(asyncio.to_thread(work)) for work in works]
    pending = set(checking)
    degenerate = False
    try:
        while pending and not (stop is not None and stop()):
            done, pending = await asyncio.wait(pending, timeout=_POLL_S, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                try:
                    task.result()
                except DegenerateSpecError:
                    if not allow_degenerate:
                        raise
                    degenerate = True
                    note("the specification accepts trivial answers; it is searched all the same")
    finally:
        # Stopped or refused: whoever still works ends when the executor is closed.
        for task in pending:
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return degenerate


def notes(on_event: Callable[[Event], None] | None) -> Callable[[str], None]:
    """What other threads say about the preparation, as events in this thread."""
    if on_event is None:
        return lambda _text: None
    loop, tell = asyncio.get_running_loop(), Emitter(on_event)

    def note(text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(tell, Preparing(text))

    return note
