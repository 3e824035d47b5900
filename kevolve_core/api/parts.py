"""From names to objects: the registry's backend and device, generator, policy and executor of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from kevolve_core.errors import (
    CaptureError,
    ConfigError,
    PluginError,
    SpecError,
    UnknownNameError,
    UnsupportedError,
    WorkerError,
    suggest,
)
from kevolve_core.evolve import MixedGenerator
from kevolve_core.evolve.policies import POLICIES, make_policy
from kevolve_core.interfaces import (
    Backend,
    CodeGenerator,
    EvaluationRequest,
    Executor,
    Renderer,
    SelectionPolicy,
)
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.folders import with_user_folders
from kevolve_core.model import Candidate, Device, Evaluation
from kevolve_core.registry import Registry, discover
from kevolve_core.spec import load_seed, load_spec

__all__ = [
    "UNFUSED",
    "HookedExecutor",
    "Place",
    "SpecLike",
    "as_candidate",
    "as_spec",
    "generator_of",
    "open_executor",
    "place",
    "policy_of",
    "yardsticks",
]

#: A spec, the path of one, or a PyTorch function or module.
SpecLike = KernelSpec | str | Path | Callable[..., Any]

_SYNTH, _LLM, _LOCAL = "synth", "llm", "local"
#: The name of the yardstick of a target without baselines.
UNFUSED = "unfused"
_WAITING = 16  # threads that hold evaluations for plugins' hooks; more than any window in use (estimated)


@frozen
class Place:
    """Where kernels run: a backend of a registry, and one of its devices."""

    registry: Registry
    backend_name: str
    backend: Backend
    device: Device


def as_spec(
    given: SpecLike, *, example_inputs: Sequence[Any] | None = None, seed_kernels: Sequence[Any] = ()
) -> KernelSpec:
    """The spec that a caller means, with his kernels as its seeds.

    Raises:
        SpecError: it does not load, or a kernel does not.
    """
    if isinstance(given, KernelSpec):
        spec = given
    elif isinstance(given, (str, Path)):
        spec = load_spec(given)
    elif callable(given):
        if example_inputs is None:
            raise SpecError(
                "a function needs example inputs",
                got=getattr(given, "__name__", type(given).__name__),
                mend="pass example_inputs=(tensor, …), whose shapes and dtypes become the case",
            )
        from kevolve_core.spec.from_function import spec_from_function  # imports torch

        spec = spec_from_function(given, example_inputs)
    else:
        raise SpecError(
            "this is no kernel specification",
            got=type(given).__name__,
            mend="pass a KernelSpec, the path of one, or a PyTorch function or module with example_inputs",
        )
    if example_inputs is not None and (isinstance(given, (KernelSpec, str, Path))):
        raise SpecError(
            "example inputs go with a function", mend="leave example_inputs out: the spec has cases"
        )
    seeds = tuple(as_candidate(kernel, spec) for kernel in seed_kernels)
    return attrs.evolve(spec, seeds=spec.seeds + seeds) if seeds else spec


def as_candidate(given: Candidate | str | Path, spec: KernelSpec) -> Candidate:
    """The user's kernel: a file or folder, or a candidate as it is."""
    return given if isinstance(given, Candidate) else load_seed(given, symbol=spec.reference.symbol)


def place(
    spec: KernelSpec | None,
    backend: str | None,
    *,
    registry: Registry | None = None,
    device: str | None = None,
) -> Place:
    """The backend and device that a caller means.

    Args:
        spec: its ``targets`` are respected; None where there is none yet.
        backend: a name, or None for the only one that is ready.
        registry: None discovers installed plugins.
        device: a device's id, or None for the backend's first.

    Raises:
        UnknownNameError: no such backend or device, or no single one is ready; lists what there is.
        PluginError: the backend's plugin is not ready, or it finds no device.
        SpecError: the spec is meant for other backends.
    """
    registry = with_user_folders(discover()) if registry is None else registry
    name = _only_ready(registry) if backend is None else backend
    found = registry.backend(name)
    if spec is not None and spec.targets and name not in spec.targets:
        raise SpecError(
            f"specification '{spec.name}' is not meant for backend '{name}'",
            got=name,
            where=f"targets: {', '.join(spec.targets)}",
            mend=f"choose one of its targets, or add '{name}' to them",
        )
    devices = list(registry.devices(name))
    if not devices:
        raise PluginError(
            f"backend '{name}' finds no device on this machine", mend="see `kevolve doctor` for the cause"
        )
    if device is None:
        return Place(registry, name, found, devices[0])
    for each in devices:
        if each.id == device:
            return Place(registry, name, found, each)
    ids = [each.id for each in devices]
    raise UnknownNameError(
        f"backend '{name}' has no device '{device}'",
        got=device,
        mend=suggest(device, ids) or f"devices are: {', '.join(ids)}",
    )


def _only_ready(registry: Registry) -> str:
    names = list(registry.names("backend"))
    ready = [name for name in names if registry.devices(name)]
    if len(ready) == 1:
        return ready[0]
    if ready:
        raise UnknownNameError(
            "several backends are ready", got=", ".join(ready), mend="name one: --backend NAME"
        )
    causes = [
        f"{s.name} is {s.state.value} ({s.cause or s.mend})" for s in registry.statuses() if not s.ready
    ]
    raise UnknownNameError(
        "no backend is ready",
        got="; ".join(causes) or "no backend plugin is installed",
        mend="install the plugin of one, or see `kevolve doctor`",
    )


def generator_of(
    given: str | CodeGenerator,
    where: Place,
    spec: KernelSpec,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> CodeGenerator:
    """The generator: the caller's own, ``synth``, ``llm``, one that a plugin added (its factory takes
    ``backend``, ``device`` and ``spec`` by keyword, and ``options`` where there are any), or several of them
    joined by ``+``. Any but ``synth`` alone gets a tuner for the tunables that its candidates declare.
    ``options`` has those of each generator under its name. Of ``synth``: ``language``, the only one it
    writes, and ``without``, names of rewrites of the graph to leave out (`synth.simplify.REWRITES`)."""
    if not isinstance(given, str):
        return given
    if given == _SYNTH:
        return _generator(given, where, spec, options)
    names = [name.strip() for name in given.split("+")]
    if len(set(names)) < len(names):
        raise ConfigError("a mix names a generator twice", got=given, mend="name each once")
    return MixedGenerator({name: _generator(name, where, spec, options) for name in names})


def _generator(
    given: str, where: Place, spec: KernelSpec, options: Mapping[str, Mapping[str, Any]] | None
) -> CodeGenerator:
    own = dict((options or {}).get(given, {}))
    if given == _LLM and _LLM not in where.registry.names("generator"):
        from kevolve_core.api.models import llm_generator

        return llm_generator(where, spec, own)
    if given == _SYNTH and _SYNTH not in where.registry.names("generator"):
        from kevolve_core.synth import SynthGenerator, graph_of

        backend = where.backend
        renderers = _wanted(backend.renderers(), own.get("language"), where)
        graph = partial(graph_of, without=_rewrites(own.get("without", ())))
        return SynthGenerator(spec, renderers, backend.schedule_space, where.device, graph)
    known = [_SYNTH, _LLM, *where.registry.names("generator")]
    if given not in known:
        raise _unknown("generator", given, known)
    made: CodeGenerator = where.registry.generator(given)(
        backend=where.backend, device=where.device, spec=spec, **({"options": own} if own else {})
    )
    return made


def _rewrites(names: Sequence[str]) -> tuple[str, ...]:
    """Rewrites of the operator graph to leave out, which must exist."""
    from kevolve_core.synth.simplify import REWRITES

    for name in names:
        if name not in REWRITES:
            raise ConfigError("synth has no such rewrite", got=name, mend=f"it has: {', '.join(REWRITES)}")
    return tuple(names)


def _wanted(renderers: Mapping[str, Renderer], language: str | None, where: Place) -> Mapping[str, Renderer]:
    """All renderers, or that of the one language that the caller wants."""
    if language is None:
        return renderers
    if language not in renderers:
        raise ConfigError(
            f"synth does not write '{language}' on backend '{where.backend_name}'",
            got=language,
            mend=f"it writes: {', '.join(renderers) or 'nothing'}",
        )
    return {language: renderers[language]}


def policy_of(
    given: str | SelectionPolicy, options: Mapping[str, Any] | None, registry: Registry
) -> SelectionPolicy:
    """The policy: the caller's own, one that ships, or one that a plugin added."""
    if not isinstance(given, str):
        return given
    if given in POLICIES:
        return make_policy(given, options)
    names = registry.names("policy")
    if given not in names:
        raise _unknown("policy", given, [*POLICIES, *names])
    return make_policy(given, options, known={given: registry.policy(given)})


def _unknown(kind: str, name: str, known: Sequence[str]) -> UnknownNameError:
    return UnknownNameError(
        f"there is no {kind} '{name}'",
        got=name,
        mend=suggest(name, known) or f"use one of: {', '.join(known)}",
    )


def open_executor(
    given: str | Executor,
    where: Place,
    spec: KernelSpec,
    *,
    seed: int,
    secret: int | None = None,
    on_note: Callable[[str], None] | None = None,
) -> HookedExecutor:
    """Where evaluations run: the caller's own executor, ``local`` worker processes, or one that a plugin
    added. Plugins' ``kevolve_evaluate`` hooks stand around each evaluation.

    Args:
        seed: of the reference's weights.
        secret: of input data; None draws one.
        on_note: hears what the ``local`` executor does while it checks the spec, from another thread.
    """
    if not isinstance(given, str):
        return HookedExecutor(given, where.registry, owned=False)
    names = where.registry.names("executor")
    if given == _LOCAL and _LOCAL not in names:
        from kevolve_core.evaluate import LocalExecutor

        ref = where.registry.ref(where.backend_name)
        made: Executor = LocalExecutor(
            ref,
            where.backend,
            where.device,
            spec,
            seed=seed,
            secret=secret,
            yardsticks=yardsticks(where, spec),
            on_note=on_note,
        )
    elif given in names:
        made = where.registry.executor(given)(
            registry=where.registry,
            backend=where.backend_name,
            device=where.device,
            spec=spec,
            seed=seed,
            secret=secret,
        )
    else:
        raise _unknown("executor", given, [_LOCAL, *names])
    return HookedExecutor(made, where.registry, owned=True)


def yardsticks(where: Place, spec: KernelSpec) -> Mapping[str, Candidate]:
    """What kernels are timed against where the backend has no baseline and the user gives no kernel: the
    reference rendered without fusion, a kernel an operator, on default schedules. Empty where there are
    baselines, or no renderer prints the reference."""
    if where.backend.baselines(spec, where.device) or spec.seeds:
        return {}
    from kevolve_core.synth import SynthGenerator

    backend = where.backend
    try:
        renderers = backend.renderers()
        return {UNFUSED: SynthGenerator(spec, renderers, backend.schedule_space, where.device).unfused()}
    except (UnsupportedError, CaptureError):
        return {}


class HookedExecutor:
    """An executor with the registry's ``kevolve_evaluate`` hooks around each evaluation."""

    def __init__(self, inner: Executor, registry: Registry, *, owned: bool) -> None:
        self._inner, self._registry, self._owned = inner, registry, owned
        self._waiting = ThreadPoolExecutor(_WAITING, "kevolve-evaluation")

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        """The evaluation's future. Cancelling it cancels the inner executor's."""
        done: Future[Evaluation] = Future()

        def run(request: EvaluationRequest) -> Evaluation:
            inner = self._inner.submit(request)
            done.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
            try:
                return inner.result()
            except CancelledError as error:  # it must not look like a cancelled search
                raise WorkerError("the executor was closed during an evaluation") from error

        def work() -> None:
            if done.cancelled():
                return
            try:
                evaluation = self._registry.evaluate(request, run)
            except BaseException as error:
                if done.set_running_or_notify_cancel():
                    done.set_exception(error)
            else:
                if done.set_running_or_notify_cancel():
                    done.set_result(evaluation)

        self._waiting.submit(work).add_done_callback(lambda held: done.cancel() if held.cancelled() else None)
        return done

    def check_spec(self) -> None:
        """The inner executor's check, where it has one."""
        check = getattr(self._inner, "check_spec", None)
        if check is not None:
            check()

    def warm_up(self) -> None:
        """The inner executor's warm-up, where it has one."""
        warm_up = getattr(self._inner, "warm_up", None)
        if warm_up is not None:
            warm_up()

    def close(self) -> None:
        """Stops the workers of an executor made here; a caller's own stays open for its other runs."""
        if self._owned:
            self._inner.close()
        self._waiting.shutdown(wait=False, cancel_futures=True)
