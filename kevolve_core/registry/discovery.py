"""The registry of the command line: installed plugins and ``plugins.toml``, none of them imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from attrs import frozen
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kevolve_core.errors import ConfigError, suggest
from kevolve_core.registry.compat import core_version
from kevolve_core.registry.config import PluginsFile, PluginTable, read_plugins_file, specifier
from kevolve_core.registry.faults import exception_fault
from kevolve_core.registry.hookspecs import ENTRY_POINT_GROUP
from kevolve_core.registry.location import locate
from kevolve_core.registry.plugin import Plugin
from kevolve_core.registry.probe import PROBE_SECONDS
from kevolve_core.registry.registry import Registry
from kevolve_core.registry.source import PluginSource
from kevolve_core.registry.status import Fault, PluginState

__all__ = ["PLUGINS_FILE", "discover", "distributions_of"]

PLUGINS_FILE = "plugins.toml"


@frozen
class _Installed:
    """One entry point of an installed distribution."""

    name: str
    source: PluginSource
    distribution: str
    version: str
    requires: tuple[str, ...]
    damage: str = ""


def discover(config: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Registry:
    """The registry of installed plugins, as ``plugins.toml`` and the environment allow.

    Imports no plugin and starts no process; that happens when something is asked for.

    Args:
        config: a ``plugins.toml``; by default that of the working directory, if it has one. Without one,
            every installed plugin loads.
        environ: by default the process's. ``KEVOLVE_PLUGINS`` (names, comma-separated) allows only those;
            ``KEVOLVE_STRICT_PLUGINS=1`` refuses a run while any enabled plugin is not ready;
            ``KEVOLVE_PROBE_SECONDS`` limits a probe; ``XDG_CACHE_HOME`` places the cache of probes.

    Raises:
        ConfigError: the file or a variable is not valid.
    """
    environment = os.environ if environ is None else environ
    if config is None and (here := Path.cwd() / PLUGINS_FILE).is_file():
        config = here
    file = None if config is None else read_plugins_file(config)
    allowed = _names(environment.get("KEVOLVE_PLUGINS", ""))
    registry = Registry(
        cache=_cache_folder(environment),
        probe_seconds=_seconds(environment.get("KEVOLVE_PROBE_SECONDS", "")),
        strict=_flag(environment, "KEVOLVE_STRICT_PLUGINS"),
    )
    registry.enlist(_plugins(_installed(), file, allowed))
    return registry


def _plugins(
    installed: Mapping[str, list[_Installed]], file: PluginsFile | None, allowed: tuple[str, ...]
) -> list[Plugin]:
    tables = file.plugins if file else {}
    known = [*installed, *(name for name in tables if name not in installed)]
    found: list[Plugin] = []
    for name in known:
        table = tables.get(name)
        offers = installed.get(name, [])
        if table is not None and file is not None:
            found.append(_listed(table, offers, file, allowed, [n for n in installed if n not in tables]))
        else:
            found += _unlisted(name, offers, file, allowed)
    for plugin in found:
        if allowed and plugin.name not in allowed:
            plugin.refusal = _off(
                "KEVOLVE_PLUGINS does not name it", "add it to KEVOLVE_PLUGINS, or unset it"
            )
    missing = [name for name in allowed if name not in {plugin.name for plugin in found}]
    return found + [_missing(name, suggest(name, known), f"kevolve-{name}") for name in missing]


def _unlisted(
    name: str, offers: list[_Installed], file: PluginsFile | None, allowed: tuple[str, ...]
) -> list[Plugin]:
    plugins = [_installed_plugin(offer) for offer in offers]
    for second in plugins[1:]:
        second.refusal = second.refusal or Fault(
            PluginState.BROKEN,
            f"the name '{name}' is already used by distribution '{plugins[0].distribution}'",
            f"choose with [plugins.{name}] distribution in plugins.toml, or uninstall one",
        )
        second.name = f"{name} ({second.distribution})"
    if file is not None and file.autoload != "all" and name not in allowed:
        cause = "plugins.toml does not list it" if file.autoload == "listed" else "autoload is 'none'"
        for plugin in plugins:
            plugin.refusal = _off(cause, f"add [plugins.{name}] to {file.file}")
    return plugins


def _listed(
    table: PluginTable,
    offers: list[_Installed],
    file: PluginsFile,
    allowed: tuple[str, ...],
    unlisted: list[str],
) -> Plugin:
    where = f"{file.file}:plugins.{table.name}"
    wanted = canonicalize_name(table.distribution) if table.distribution else ""
    fitting = [o for o in offers if not wanted or canonicalize_name(o.distribution) == wanted]
    if table.path is not None:
        plugin = Plugin(table.name, distribution=table.distribution)
        try:
            plugin.source = locate(table.name, table.path, f"{where}.path")
        except ConfigError as error:  # one wrong path does not keep the others from loading
            plugin.refusal = exception_fault(error, "looking for it")
    elif fitting:
        plugin = _installed_plugin(fitting[0])
    else:
        others = ", ".join(sorted(o.distribution for o in offers))
        offered = f"only {others} offers a plugin of that name" if others else ""
        hint = offered or ("" if table.distribution else suggest(table.name, unlisted))
        plugin = _missing(table.name, hint, table.distribution or f"kevolve-{table.name}")
    plugin.options, plugin.options_where = table.options, f"{where}.options"
    plugin.priority, plugin.required, plugin.grants = table.priority, table.required, table.grants
    if table.enabled is False:
        plugin.refusal = _off(f"{where}.enabled is false", "set enabled = true")
    elif file.autoload == "none" and not (table.enabled or table.required or table.name in allowed):
        plugin.refusal = _off("autoload is 'none'", f"set {where}.enabled = true")
    if plugin.refusal is None and table.version and table.path is None:
        asked = specifier(f"{where}.version", table.version)
        if not asked.contains(plugin.version, prereleases=True):
            plugin.refusal = Fault(
                PluginState.INCOMPATIBLE,
                f"{plugin.distribution} {plugin.version} is installed and {where}.version asks for {asked}",
                f"pip install '{plugin.distribution}{asked}'",
            )
    return plugin


def _installed_plugin(offer: _Installed) -> Plugin:
    plugin = Plugin(offer.name, offer.source, offer.distribution, offer.version)
    if offer.damage:
        plugin.refusal = Fault(
            PluginState.BROKEN,
            f"the metadata of distribution '{offer.distribution}' cannot be read: {offer.damage}",
            f"reinstall it: pip install --force-reinstall {offer.distribution}",
        )
    here = core_version()
    for text in offer.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # pip's concern; the probe will tell whether the plugin works
        ours = canonicalize_name(requirement.name) == "kevolve" and not requirement.extras
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if ours and applies and here != "0" and not requirement.specifier.contains(here, prereleases=True):
            plugin.refusal = Fault(
                PluginState.INCOMPATIBLE,
                f"{offer.distribution} {offer.version} was built for kevolve{requirement.specifier}; this is "
                f"kevolve {here}",
                f"pip install 'kevolve{requirement.specifier}', or another release of {offer.distribution}",
            )
    return plugin


def _missing(name: str, hint: str, distribution: str) -> Plugin:
    mend = f"pip install {distribution}, or remove its name" + (f"; {hint}" if hint else "")
    return Plugin(name, refusal=Fault(PluginState.UNAVAILABLE, "it is not installed", mend))


def _off(cause: str, mend: str) -> Fault:
    return Fault(PluginState.DISABLED, cause, mend)


def distributions_of(name: str) -> tuple[str, ...]:
    """Installed distributions that offer a plugin ``name``, the one that loads first."""
    return tuple(offer.distribution for offer in _installed().get(name, ()))


def _installed() -> dict[str, list[_Installed]]:
    """Entry points by name; distributions of one name in the order of their names."""
    found: dict[str, list[_Installed]] = {}
    seen: set[str] = set()
    for distribution in distributions():
        # One distribution with damaged metadata must not hide the others: entry_points() would raise.
        if ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name = distribution.metadata["Name"] or "unnamed"
        if canonicalize_name(name) in seen:
            continue  # on the path twice; the first is the one that imports
        seen.add(canonicalize_name(name))
        for offer in _offers(distribution, name):
            found.setdefault(offer.name, []).append(offer)
    for offers in found.values():
        offers.sort(key=lambda offer: canonicalize_name(offer.distribution))
    return dict(sorted(found.items()))


def _offers(distribution: Distribution, name: str) -> list[_Installed]:
    try:
        return [
            _Installed(
                name=point.name,
                source=PluginSource(module=point.module, attribute=point.attr or ""),
                distribution=name,
                version=distribution.version or "",
                requires=tuple(distribution.requires or ()),
            )
            for point in distribution.entry_points
            if point.group == ENTRY_POINT_GROUP
        ]
    except Exception as error:  # whatever importlib.metadata makes of a damaged file
        return [_Installed(name, PluginSource(), name, "", (), damage=f"{type(error).__name__}: {error}")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _flag(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip().lower()
    if text in ("", "0", "false", "no"):
        return False
    if text in ("1", "true", "yes"):
        return True
    raise ConfigError(f"{name} must be 0 or 1", got=environ[name], where="environment", mend=f"{name}=1")


def _seconds(text: str) -> float:
    if not text.strip():
        return PROBE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            "KEVOLVE_PROBE_SECONDS must be a positive number of seconds",
            got=text,
            where="environment",
            mend=f"KEVOLVE_PROBE_SECONDS={PROBE_SECONDS:g}",
        )
    return seconds


def _cache_folder(environ: Mapping[str, str]) -> Path | None:
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        home = environ.get("HOME", "") or os.path.expanduser("~")
        if not home.startswith("/"):
            return None
        base = f"{home}/.cache"
    return Path(base, "kevolve", "probes")
