"""The plugins of a registry: probing them, and settling who holds which name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kevolve_core.errors import PluginError, UnknownNameError, suggest
from kevolve_core.registry.contributions import Contributions
from kevolve_core.registry.faults import exception_fault
from kevolve_core.registry.local import probe_backend
from kevolve_core.registry.plugin import Plugin
from kevolve_core.registry.probe import BackendReport, ProbeCache, ProbeReport, probe
from kevolve_core.registry.status import Fault, PluginState

__all__ = ["Claims", "Roster"]

#: Kind -> name -> the plugin that provides it; None stands for what the program itself added.
Claims = dict[str, dict[str, Plugin | None]]

#: Probes at once: each is a process that may import a large framework (estimated).
_PROBES = 4


class Roster:
    """Plugins by name. The caller holds the registry's lock.

    Args:
        own: what the program itself added; it keeps every name that it has.
        cache: reports of earlier probes, or None.
        seconds: limit for one probe.
    """

    def __init__(self, own: Contributions, cache: ProbeCache | None, seconds: float) -> None:
        self.plugins: dict[str, Plugin] = {}
        self.resolved = True
        self._own = own
        self._cache = cache
        self._seconds = seconds
        self._cancelled = threading.Event()

    def ordered(self) -> list[Plugin]:
        """Who comes first keeps a name: the embedder's, then by priority, then by name."""
        return sorted(self.plugins.values(), key=lambda p: (not p.embedded, -p.priority, p.name))

    def claims(self) -> Claims:
        """Who provides what, of the plugins looked at so far."""
        claims: Claims = {kind: dict.fromkeys(names) for kind, names in self._own.items.items()}
        for plugin in self.ordered():
            if plugin.refusal is None and plugin.clash is None:
                for kind, names in plugin.provides().items():
                    claims[kind] |= dict.fromkeys(names, plugin)
        return claims

    def resolve(self, *, refresh: bool = False) -> None:
        """Look at every plugin that may load (again with ``refresh``), then settle who holds which name."""
        if self.resolved and not refresh:
            return
        waiting = [
            plugin
            for plugin in self.plugins.values()
            if plugin.refusal is None and (refresh or (plugin.report is None and not plugin.embedded))
        ]
        if len(waiting) == 1:
            self.probe(waiting[0], refresh=refresh)
        elif waiting:
            self._cancelled = threading.Event()
            with ThreadPoolExecutor(min(_PROBES, len(waiting)), "kevolve-probe") as pool:
                try:
                    list(pool.map(lambda plugin: self.probe(plugin, refresh=refresh), waiting))
                except BaseException:  # Ctrl-C must not wait for a probe that hangs
                    self._cancelled.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        self._settle_clashes()
        self.resolved = True

    def probe(self, plugin: Plugin, *, refresh: bool = False) -> None:
        """Set the plugin's report, from the cache unless ``refresh``. Never raises for what it does."""
        plugin.fresh = True
        if plugin.source is None:
            plugin.report = _probe_here(plugin)
            return
        key = ""
        if self._cache is not None:
            key = self._cache.key(plugin.source, plugin.distribution, plugin.version, plugin.options)
            known = None if refresh else self._cache.get(key)
            if known is not None:
                plugin.report, plugin.fresh = known, False
                return
        try:
            plugin.report = probe(
                plugin.source,
                plugin.name,
                plugin.options,
                plugin.options_where,
                self._seconds,
                self._cancelled,
            )
        except (OSError, PluginError) as error:  # no process, no temporary folder: says nothing of the plugin
            plugin.report = ProbeReport(fault=exception_fault(error, "starting its probe"))
            return
        if self._cache is not None:
            self._cache.put(key, plugin.report)

    def settled(self, plugin: Plugin, fault: Callable[[], Fault | None]) -> Fault | None:
        """``fault()``, after a new probe where it rests on a remembered one: it may be mended by now."""
        found = fault()
        if found is None or plugin.refusal or plugin.clash or plugin.fresh:
            return found
        self.probe(plugin, refresh=True)
        self._settle_clashes()
        return fault()

    def unknown(self, kind: str, name: str) -> UnknownNameError:
        """The error for a name that nothing provides: what is ready, and why other plugins are not."""
        claims = self.claims()[kind]
        ready = sorted(
            known
            for known, owner in claims.items()
            if owner is None
            or (owner.backend_fault(known) if kind == "backend" else owner.whole_fault()) is None
        )
        faults = {plugin.name: plugin.fault() for plugin in self.ordered()}
        others = [
            f"not ready: {plugin}, {fault.state}: {fault.cause}" for plugin, fault in faults.items() if fault
        ]
        return UnknownNameError(
            f"there is no {kind} '{name}'",
            got=name,
            where="\n         ".join([f"ready: {', '.join(ready) or 'none'}", *others]),
            mend=suggest(name, {**claims, **faults}) or "see `kevolve plugins list`",
        )

    def _settle_clashes(self) -> None:
        held = {
            (kind, name): "the program itself"
            for kind, names in self._own.provides().items()
            for name in names
        }
        for plugin in self.ordered():
            if plugin.refusal is not None:
                continue
            plugin.clash = None
            mine = [(kind, name) for kind, names in plugin.provides().items() for name in names]
            taken = [key for key in mine if key in held]
            if not taken:
                held |= dict.fromkeys(mine, f"plugin '{plugin.name}'")
                continue
            kind, name = taken[0]
            plugin.clash = Fault(
                PluginState.BROKEN,
                f"{kind} '{name}' is already provided by {held[taken[0]]}",
                f"in plugins.toml disable one of the two, or give this one precedence "
                f"([plugins.{plugin.name}] priority = {self._above(held[taken[0]])})",
            )

    def _above(self, holder: str) -> int:
        return 1 + max([p.priority for p in self.plugins.values() if f"plugin '{p.name}'" == holder] or [0])


def _probe_here(plugin: Plugin) -> ProbeReport:
    added = plugin.loaded or Contributions()
    backends = {}
    for name, manifest in added.manifests.items():
        factory = added.items["backend"][name]
        devices, fault = probe_backend(manifest, factory, plugin.options, plugin.options_where)
        backends[name] = BackendReport(manifest, devices, fault)
    return ProbeReport(backends=backends, provides=added.provides())
