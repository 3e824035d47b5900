"""The registry: what plugins and embedders have added, found by name. Instances only; nothing is global."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve

from kevolve_core.errors import KevolveError, PluginError, UnknownNameError, suggest
from kevolve_core.interfaces import Backend, BackendRef, EvaluationRequest, Manifest
from kevolve_core.model import Device, Evaluation
from kevolve_core.registry.compat import check_options
from kevolve_core.registry.contributions import KINDS, BackendFactory, Contributions
from kevolve_core.registry.faults import exception_fault
from kevolve_core.registry.hooks import Hooks, register_into
from kevolve_core.registry.local import probe_backend
from kevolve_core.registry.needs import Needs, parse_grants, run_needs
from kevolve_core.registry.plugin import Plugin
from kevolve_core.registry.probe import PROBE_SECONDS, ProbeCache, ProbeReport
from kevolve_core.registry.roster import Claims, Roster
from kevolve_core.registry.source import source_of
from kevolve_core.registry.status import Fault, PluginState, PluginStatus

__all__ = ["Registry", "stage"]

_log = logging.getLogger("kevolve.plugins")


class Registry:
    """Backends, generators, policies and the rest, by name.

    ``Registry()`` is empty and reads nothing: no file, no working directory, no entry point. Embedders fill
    it with `register` or the ``add_*`` methods; the command line gets one from `discover`. Thread-safe.

    Args:
        cache: folder for the results of probes; None keeps them in this object only.
        probe_seconds: limit for one probe.
        strict: `backend` refuses to work while any plugin that is not disabled is not ready.
    """

    def __init__(
        self, *, cache: Path | None = None, probe_seconds: float = PROBE_SECONDS, strict: bool = False
    ) -> None:
        self._own = Contributions()
        self._roster = Roster(self._own, None if cache is None else ProbeCache(cache), probe_seconds)
        self._backends: dict[str, Backend] = {}
        self._own_devices: dict[str, tuple[Device, ...]] = {}
        self._hooks = Hooks()
        self._hooks_loaded = True
        self._strict = strict
        self._lock = threading.RLock()

    # What plugins and embedders add.

    def add_backend(self, manifest: Manifest, factory: BackendFactory) -> None:
        """Add a backend; ``factory`` is called with the granted options when the backend is first asked for.

        A backend that an embedder adds by this method, outside of a plugin, serves this process only: a
        worker process could not find it again (`ref`). Raises PluginError for a manifest that is malformed or
        of another API version, or a name that is taken.
        """
        with self._lock:
            if isinstance(manifest, Manifest):
                self._refuse_taken("backend", manifest.name)
            self._own.add_backend(manifest, factory)

    def add_generator(self, name: str, factory: Callable[..., Any]) -> None:
        """Add a factory of code generators; see `kevolve_core.interfaces.CodeGenerator`."""
        self._add("generator", name, factory)

    def add_provider(self, name: str, factory: Callable[..., Any]) -> None:
        """Add a factory of language-model providers."""
        self._add("provider", name, factory)

    def add_policy(self, name: str, factory: Callable[..., Any]) -> None:
        """Add a factory of selection policies; see `kevolve_core.interfaces.SelectionPolicy`."""
        self._add("policy", name, factory)

    def add_executor(self, name: str, factory: Callable[..., Any]) -> None:
        """Add a factory of executors; see `kevolve_core.interfaces.Executor`."""
        self._add("executor", name, factory)

    def add_problems(self, name: str, problems: Any) -> None:
        """Add a set of problems (a benchmark suite)."""
        self._add("problems", name, problems)

    def add_knowledge(self, path: Path) -> None:
        """Add a folder of knowledge pages."""
        with self._lock:
            self._own.add_knowledge(path)

    def add_command(self, name: str, command: Any) -> None:
        """Add a command to the command line."""
        self._add("command", name, command)

    def _add(self, kind: str, name: str, value: Any) -> None:
        with self._lock:
            self._refuse_taken(kind, name)
            self._own.add(kind, name, value)

    def _refuse_taken(self, kind: str, name: str) -> None:
        owner = self._roster.claims()[kind].get(name)
        if owner is not None:
            raise PluginError(
                f"{kind} '{name}' is already provided by plugin '{owner.name}'", mend="use another name"
            )

    def register(
        self,
        plugin: object,
        *,
        name: str,
        options: Mapping[str, Any] | None = None,
        grants: Mapping[str, Any] | None = None,
    ) -> None:
        """Register a plugin module or object that the caller has imported himself.

        Reads no file, working directory or entry point, installs no handler and starts no process.

        Args:
            plugin: has hook implementations, as a module that an entry point would name.
            name: the plugin's name, unique in this registry.
            options: granted to its backends, checked against their schemas.
            grants: what its backends may have beyond the sandbox; keys as in `kevolve_core.registry.needs`.

        Raises:
            PluginError: it does not register, is incompatible, or claims a name that is taken. Nothing of it
                stays behind.
            ConfigError: an option or a grant is not valid.
        """
        granted = dict(options or {})
        lifted = parse_grants(dict(grants or {}), "grants")
        with self._lock:
            if name in self._roster.plugins:
                raise PluginError(f"a plugin '{name}' is registered already", mend="use another name")
            try:
                added = stage(plugin, name)
            except KevolveError:
                raise
            except (Exception, SystemExit) as error:
                fault = exception_fault(error, "registering it")
                raise PluginError(
                    f"plugin '{name}' did not register", got=fault.cause, mend=fault.mend
                ) from error
            for manifest in added.manifests.values():
                check_options(manifest, granted, "options")
            for kind, names in added.provides().items():
                for each in names:
                    self._refuse_taken(kind, each)
                    if each in self._own.items[kind]:
                        raise PluginError(f"{kind} '{each}' is already provided by the program itself")
            self._hooks.use(plugin, name)
            self._roster.plugins[name] = Plugin(
                name=name,
                source=source_of(plugin),
                options=granted,
                options_where="options",
                grants=lifted,
                loaded=added,
                embedded=True,
            )

    def enlist(self, plugins: Iterable[Plugin]) -> None:
        """Take over plugins that `discover` found; none is looked at before something is asked for."""
        with self._lock:
            self._roster.plugins |= {plugin.name: plugin for plugin in plugins}
            self._roster.resolved = self._hooks_loaded = False

    # What is found by name.

    def backend(self, name: str) -> Backend:
        """The backend ``name``, made once.

        A discovered plugin is imported only now, and only after a subprocess has imported and probed it
        unharmed.

        Raises:
            UnknownNameError: there is none; lists those that are ready, and why others are not.
            PluginError: its plugin, or one that is ``required``, is not ready; the cause is chained.
            ConfigError: an option granted to it is not valid.
        """
        with self._lock:
            self.check()
            if name in self._backends:
                return self._backends[name]
            plugin = self._backend_owner(name)
            if plugin is None:
                options, factory = {}, self._own.items["backend"][name]
            else:
                fault = self._roster.settled(plugin, lambda: plugin.backend_fault(name))
                # What an embedder imported himself is his to use, whatever a probe elsewhere says.
                if fault is not None and not plugin.embedded:
                    raise plugin.error(fault, f"backend '{name}' cannot be used")
                added = self._load(plugin)
                if (refused := plugin.grant_fault(added.manifests[name])) is not None:
                    raise plugin.error(refused, f"backend '{name}' cannot be used")
                factory, options = added.items["backend"][name], dict(plugin.options)
            try:
                made: Backend = factory(options)
            except KevolveError:
                raise
            except (Exception, SystemExit) as error:
                where = plugin.where if plugin else "registry.add_backend"
                raise exception_fault(error, f"making backend '{name}'").error(
                    f"backend '{name}' cannot be made", where
                ) from error
            self._backends[name] = made
            return made

    def manifest(self, name: str) -> Manifest:
        """The manifest of backend ``name``, without importing its plugin. Raises as `backend` for an unknown
        one."""
        with self._lock:
            plugin = self._backend_owner(name)
            if plugin is None:
                return self._own.manifests[name]
            if plugin.loaded is not None and name in plugin.loaded.manifests:
                return plugin.loaded.manifests[name]
            if plugin.report is not None and name in plugin.report.backends:
                return plugin.report.backends[name].manifest
            fault = plugin.whole_fault() or Fault(PluginState.BROKEN, f"it offers no backend '{name}'")
            raise plugin.error(fault, f"backend '{name}' cannot be described")

    def ref(self, name: str) -> BackendRef:
        """How a worker process finds backend ``name`` again (`load_backend`).

        Raises:
            PluginError: it was made at run time or in ``__main__``, where no other process finds it.
        """
        with self._lock:
            plugin = self._backend_owner(name)
            if plugin is None or plugin.source is None:
                raise PluginError(
                    f"backend '{name}' cannot be found again by a worker process",
                    where=plugin.where if plugin else "registry.add_backend",
                    mend="register a module that can be imported, or an object that is an attribute of one",
                )
            manifest = self.manifest(name)
            if (refused := plugin.grant_fault(manifest)) is not None:
                raise plugin.error(refused, f"backend '{name}' cannot be used")
            grants = run_needs(manifest).plain()
            return BackendRef(str(plugin.source), name, plugin.options, grants)

    def lacking(self, name: str) -> Needs:
        """What plugin ``name`` needs beyond the sandbox and is not granted, by the latest probe. Raises
        UnknownNameError for no plugin, PluginError for one whose probe gave no manifest."""
        with self._lock:
            self._roster.resolve()
            if name not in self._roster.plugins:
                raise UnknownNameError(f"there is no plugin '{name}'", got=name)
            return self._roster.plugins[name].lacking()

    def plugins(self) -> Sequence[str]:
        """Names of all plugins, sorted; none is looked at."""
        with self._lock:
            return tuple(sorted(self._roster.plugins))

    def devices(self, name: str, *, refresh: bool = False) -> Sequence[Device]:
        """Devices of backend ``name``, probed in a subprocess with a time limit and remembered.

        A crash, a hang or an exception in the probe gives no devices; `statuses` has the cause. What an
        embedder registered and no other process can import is probed in this process.

        Raises:
            UnknownNameError: there is no such backend.
        """
        with self._lock:
            plugin = self._backend_owner(name)
            if plugin is None:
                if refresh or name not in self._own_devices:
                    factory = self._own.items["backend"][name]
                    self._own_devices[name] = probe_backend(self._own.manifests[name], factory, {}, "")[0]
                return self._own_devices[name]
            if plugin.refusal is None and (refresh or plugin.report is None):
                self._roster.probe(plugin, refresh=refresh)
            fault = self._roster.settled(plugin, lambda: plugin.backend_fault(name))
            if fault is not None or plugin.report is None or name not in plugin.report.backends:
                return ()
            return plugin.report.backends[name].devices

    def generator(self, name: str) -> Callable[..., Any]:
        """The factory of generator ``name``. Raises as `backend` does."""
        return self._callable("generator", name)

    def provider(self, name: str) -> Callable[..., Any]:
        """The factory of language-model provider ``name``. Raises as `backend` does."""
        return self._callable("provider", name)

    def policy(self, name: str) -> Callable[..., Any]:
        """The factory of selection policy ``name``. Raises as `backend` does."""
        return self._callable("policy", name)

    def executor(self, name: str) -> Callable[..., Any]:
        """The factory of executor ``name``. Raises as `backend` does."""
        return self._callable("executor", name)

    def problems(self, name: str) -> Any:
        """The problem set ``name``. Raises as `backend` does."""
        return self._item("problems", name)

    def command(self, name: str) -> Any:
        """The command ``name``. Raises as `backend` does."""
        return self._item("command", name)

    def knowledge(self) -> Sequence[Path]:
        """Knowledge folders of the embedder and of the plugins loaded so far."""
        with self._lock:
            loaded = [p.loaded for p in self._roster.plugins.values() if p.loaded is not None]
            return tuple(path for each in (self._own, *loaded) for path in each.knowledge)

    def names(self, kind: str) -> Sequence[str]:
        """Sorted names of one kind (``backend``, ``generator``, …), whether their plugin is ready or not."""
        if kind not in KINDS:
            raise UnknownNameError(
                f"there is no kind '{kind}'", mend=suggest(kind, KINDS) or f"one of {', '.join(KINDS)}"
            )
        with self._lock:
            return tuple(sorted(self._claims()[kind]))

    def statuses(self, *, refresh: bool = False) -> Sequence[PluginStatus]:
        """Every plugin with its state, by priority and then by name. Never raises for what a plugin does and
        imports none: it reports the latest probe, or a new one with ``refresh``."""
        with self._lock:
            self._roster.resolve(refresh=refresh)
            return tuple(plugin.status() for plugin in self._roster.ordered())

    # A run.

    def check(self) -> None:
        """Refuse to run while a required plugin is not ready; with ``strict``, while any is not that is not
        disabled."""
        with self._lock:
            if not self._strict and not any(p.required for p in self._roster.plugins.values()):
                return
            self._roster.resolve()
            for plugin in self._roster.ordered():
                fault = self._roster.settled(plugin, plugin.fault)
                if fault is None:
                    continue
                if plugin.required:
                    raise plugin.error(fault, f"required plugin '{plugin.name}' is not ready")
                if self._strict and fault.state is not PluginState.DISABLED:
                    raise plugin.error(fault, "plugins are strict (KEVOLVE_STRICT_PLUGINS)")

    def emit(self, event: Any) -> None:
        """Tell every plugin that observes events. Never raises for what one does."""
        self._load_hooks()
        self._hooks.emit(event)

    def evaluate(
        self, request: EvaluationRequest, run: Callable[[EvaluationRequest], Evaluation]
    ) -> Evaluation:
        """``run(request)`` with the ``kevolve_evaluate`` hooks of all plugins around it."""
        self._load_hooks()
        return self._hooks.evaluate(request, run)

    # Inside.

    def _claims(self) -> Claims:
        self._roster.resolve()
        return self._roster.claims()

    def _backend_owner(self, name: str) -> Plugin | None:
        """The plugin that provides a backend, or that has its name and cannot say what it provides; None
        where the program itself added it."""
        claims = self._claims()["backend"]
        if name in claims:
            return claims[name]
        plugin = self._roster.plugins.get(name)
        if plugin is not None and self._roster.settled(plugin, plugin.whole_fault) is not None:
            return plugin
        claims = self._claims()["backend"]
        if name in claims:
            return claims[name]
        raise self._roster.unknown("backend", name)

    def _callable(self, kind: str, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = self._item(kind, name)
        return found

    def _item(self, kind: str, name: str) -> Any:
        with self._lock:
            claims = self._claims()[kind]
            if name not in claims:
                plugin = self._roster.plugins.get(name)
                fault = self._roster.settled(plugin, plugin.whole_fault) if plugin else None
                if plugin is not None and fault is not None:
                    raise plugin.error(fault, f"{kind} '{name}' cannot be used")
                claims = self._claims()[kind]
            if name not in claims:
                raise self._roster.unknown(kind, name)
            owner = claims[name]
            return (self._own if owner is None else self._load(owner)).items[kind][name]

    def _load(self, plugin: Plugin) -> Contributions:
        """Import and register a plugin that a probe found safe."""
        if plugin.loaded is not None:
            return plugin.loaded
        fault = plugin.whole_fault()
        if fault is not None or plugin.source is None:
            raise plugin.error(fault or Fault(PluginState.BROKEN, "it has no source"), "it is not imported")
        try:
            module = plugin.source.load()
            plugin.loaded = stage(module, plugin.name)
            self._hooks.use(module, plugin.name)
        except (Exception, SystemExit) as error:
            found = exception_fault(error, "importing it in this process")
            plugin.report = evolve(plugin.report or ProbeReport(), fault=found)
            plugin.fresh = True
            raise plugin.error(found, "it cannot be imported") from error
        return plugin.loaded

    def _load_hooks(self) -> None:
        """Import the ready plugins that implement a hook of a run."""
        if self._hooks_loaded:
            return
        with self._lock:
            self._roster.resolve()
            self._hooks_loaded = True
            for plugin in self._roster.ordered():
                hooks = set(plugin.report.hooks if plugin.report else ()) - {"kevolve_register"}
                if hooks and plugin.fault() is None:
                    try:
                        self._load(plugin)
                    except KevolveError as error:
                        _log.warning("plugin '%s' takes no part in the run: %s", plugin.name, error)


def stage(plugin: object, name: str) -> Contributions:
    """What ``plugin`` contributes, all or nothing.

    Raises:
        PluginError: it implements no or an unknown hook, or a manifest is of another API version.
        Exception: whatever its ``kevolve_register`` raises.
    """
    alone = Registry()
    register_into(plugin, name, alone)
    return alone._own
