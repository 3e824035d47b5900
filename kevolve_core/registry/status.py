"""The state of a plugin, with its cause and its mend."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from attrs import field, frozen

from kevolve_core.errors import ConfigError, KevolveError, PluginError
from kevolve_core.model import Device, freeze

__all__ = ["Fault", "PluginState", "PluginStatus"]


class PluginState(StrEnum):
    """What can be done with a plugin."""

    DISABLED = "disabled"  # the user turned it off
    INCOMPATIBLE = "incompatible"  # built for another version of the core, or not the version asked for
    BROKEN = "broken"  # raises, crashes, hangs, or claims what another plugin holds
    UNAVAILABLE = "unavailable"  # sound, but what it needs is not on this machine
    READY = "ready"


@frozen
class PluginStatus:
    """One plugin as `Registry.statuses` reports it.

    Args:
        name: the plugin's name (its entry point's, or its table's in ``plugins.toml``).
        state: what can be done with it.
        cause: why it is in that state; may be set for a ready one of which a part is not usable.
        mend: what to do about it.
        distribution: the installed distribution it comes from, or an empty string.
        version: that distribution's version.
        backends: names of the backends it offers, where known.
        devices: devices that the latest probe found.
        provides: kind (``generator``, ``policy``, …) -> names it offers.
        source: where its code is: ``module``, ``module@folder`` or a file.
    """

    name: str
    state: PluginState
    cause: str = ""
    mend: str = ""
    distribution: str = ""
    version: str = ""
    backends: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    provides: Mapping[str, tuple[str, ...]] = field(factory=dict, converter=freeze, hash=False)
    source: str = ""

    @property
    def ready(self) -> bool:
        return self.state is PluginState.READY


@frozen
class Fault:
    """Why a plugin, or one backend of it, is not ready; survives JSON, so that it can be cached.

    ``trace`` is the plugin's own traceback or the tail of what it printed. ``configuration`` says that the
    user's ``plugins.toml`` is at fault, at ``where``, and not the plugin.
    """

    state: PluginState
    cause: str
    mend: str = ""
    trace: str = ""
    configuration: bool = False
    where: str = ""

    def error(self, what: str, where: str) -> KevolveError:
        """The exception to raise for it, with its trace chained."""
        kind = ConfigError if self.configuration else PluginError
        error = kind(what, got=self.cause, where=self.where or where, mend=self.mend or None)
        if self.trace:
            error.__cause__ = PluginError(self.cause, got=self.trace)
        return error
