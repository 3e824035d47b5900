"""One plugin as a registry knows it: where it is, what it was granted, and what came of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Factory, define

from kevolve_core.errors import KevolveError
from kevolve_core.interfaces import Manifest
from kevolve_core.registry.contributions import Contributions
from kevolve_core.registry.needs import Needs, missing
from kevolve_core.registry.probe import ProbeReport
from kevolve_core.registry.source import PluginSource
from kevolve_core.registry.status import Fault, PluginState, PluginStatus

__all__ = ["Plugin"]


@define(eq=False)
class Plugin:
    """``refusal`` is known before anything of the plugin runs; ``clash`` once others are known too."""

    name: str
    source: PluginSource | None = None
    distribution: str = ""
    version: str = ""
    options: Mapping[str, Any] = Factory(dict)
    options_where: str = ""
    grants: Needs = Factory(Needs)
    priority: int = 0
    required: bool = False
    refusal: Fault | None = None
    clash: Fault | None = None
    report: ProbeReport | None = None
    fresh: bool = False  # the report was made by this process, not read from the cache
    loaded: Contributions | None = None
    embedded: bool = False  # handed over by an embedder: imported already, and by him

    @property
    def where(self) -> str:
        origin = f"{self.distribution} {self.version}".strip() or str(self.source or "")
        return f"plugin '{self.name}'" + (f" ({origin})" if origin else "")

    def provides(self) -> Mapping[str, tuple[str, ...]]:
        if self.loaded is not None:
            return self.loaded.provides()
        return self.report.provides if self.report is not None else {}

    def whole_fault(self) -> Fault | None:
        """Why nothing of the plugin can be used, not even imported, or None."""
        return self.refusal or self.clash or (self.report.fault if self.report else None)

    def fault(self) -> Fault | None:
        """Why the plugin is not ready: a fault of the whole, or of every backend it has."""
        found = self.whole_fault()
        if found is not None or self.report is None or not self.report.backends:
            return found
        faults = [self.backend_fault(name) for name in self.report.backends]
        return None if None in faults else faults[0]

    def backend_fault(self, name: str) -> Fault | None:
        """Why backend ``name`` of it cannot be used, or None."""
        whole = self.whole_fault()
        if whole is not None or self.report is None or name not in self.report.backends:
            return whole
        return self.report.backends[name].fault or self.grant_fault(self.report.backends[name].manifest)

    def lacking(self) -> Needs:
        """What its backends need and are not granted. Raises PluginError where no probe could ask them."""
        fault = self.whole_fault()
        if fault is not None:
            raise self.error(fault, f"what plugin '{self.name}' needs is not known")
        found = Needs()
        for each in self.report.backends.values() if self.report else ():
            found = found.and_also(missing(each.manifest, self.grants))
        return found

    def grant_fault(self, manifest: Manifest) -> Fault | None:
        """Why a backend cannot be used: it needs what this plugin is not granted; else None."""
        lacking = missing(manifest, self.grants)
        if not lacking:
            return None
        if self.embedded:
            mend = f"Registry.register(…, grants={self.grants.and_also(lacking).plain()!r})"
        else:
            mend = f"kevolve plugins grant {self.name}"
        return Fault(
            PluginState.UNAVAILABLE,
            f"backend '{manifest.name}' needs what it is not granted: {lacking.words()}",
            mend,
        )

    def status(self) -> PluginStatus:
        fault = self.fault()
        report = self.report or ProbeReport()
        seen = report.backends.values()
        faults = [found for name in report.backends if (found := self.backend_fault(name))]
        partly = "; ".join(each.cause for each in faults)
        provides = self.provides()
        where = f" ({fault.where})" if fault and fault.where else ""
        return PluginStatus(
            name=self.name,
            state=fault.state if fault else PluginState.READY,
            cause=fault.cause + where if fault else partly,
            mend=fault.mend if fault else "; ".join(each.mend for each in faults),
            distribution=self.distribution,
            version=self.version,
            backends=provides.get("backend", ()),
            devices=() if fault else tuple(device for each in seen for device in each.devices),
            provides={kind: names for kind, names in provides.items() if kind != "backend"},
            source=str(self.source or ""),
        )

    def error(self, fault: Fault, what: str) -> KevolveError:
        """The exception for using it in spite of ``fault``."""
        return fault.error(f"{what}: plugin '{self.name}' is {fault.state}", self.where)
