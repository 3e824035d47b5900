"""What a backend needs beyond the sandbox, and what ``plugins.toml`` grants it.

A manifest declares by phase, the user grants once for the plugin:

    needs={"run": {"network": ["licence.example.com:27000"], "environment": ["ACME_LICENSE_FILE"]}}

    [plugins.acme.grants]
    network = ["licence.example.com:27000"]
    environment = ["ACME_LICENSE_FILE"]

Keys, the same on both sides:

- ``network``: ``host:port`` each; ``host:*`` for any port, ``*`` (or true) for anywhere.
- ``paths``: absolute folders or files to write below; ``~`` is the user's home.
- ``environment``: names of variables that workers get from the user's environment.
- ``devices``: device nodes to open for writing, patterns allowed (``/dev/acme*``).
- ``queue``: seconds a launch may wait for its turn, not counted as the kernel's time.
- ``programs`` (needs alone): what has to be on ``PATH``, in words; nothing is granted for it.

Phase ``run`` is the worker that runs candidates. Phase ``compile`` is the plugin's own compiler in the user's
process, which nothing confines: its grant is the user's consent, and only what ``run`` needs reaches a
worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from attrs import fields, frozen

from kevolve_core.errors import ConfigError, KevolveError, PluginError, suggest
from kevolve_core.interfaces import Manifest

__all__ = ["Needs", "check_manifest_needs", "missing", "parse_grants", "run_needs"]

_PHASES = ("compile", "run")


@frozen
class Needs:
    """Exceptions from the sandbox, needed or granted. An empty one is the sandbox as it is."""

    network: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    queue: float = 0.0

    def __bool__(self) -> bool:
        return self != Needs()

    def plain(self) -> dict[str, Any]:
        """The keys that are set, as JSON and TOML values."""
        found = {"network": self.network, "paths": self.paths, "environment": self.environment}
        lists = {name: list(value) for name, value in (found | {"devices": self.devices}).items() if value}
        return {**lists, **({"queue": self.queue} if self.queue else {})}

    def words(self) -> str:
        """One line for a person."""
        parts = [
            ("network to ", self.network),
            ("writing below ", self.paths),
            ("the environment variables ", self.environment),
            ("the devices ", self.devices),
        ]
        said = [lead + ", ".join(values) for lead, values in parts if values]
        return "; ".join(said + ([f"a queue of up to {self.queue:g} s a launch"] if self.queue else []))

    def and_also(self, other: Needs) -> Needs:
        """Both together."""
        lists = {
            f.name: tuple(dict.fromkeys((*getattr(self, f.name), *getattr(other, f.name))))
            for f in fields(Needs)
            if f.name != "queue"
        }
        return Needs(**lists, queue=max(self.queue, other.queue))


def parse_grants(table: Mapping[str, Any], where: str) -> Needs:
    """A ``grants`` table. Raises ConfigError for an unknown key (with a suggestion) or a bad value."""
    return _parse(table, where, ConfigError, ())


def check_manifest_needs(manifest: Manifest) -> None:
    """Raise PluginError where the needs of a manifest are not of the form above."""
    for phase in _PHASES:
        _phase(manifest, phase)
    unknown = [name for name in manifest.needs if name not in _PHASES]
    if unknown:
        raise PluginError(
            f"the manifest of backend '{manifest.name}' states needs of an unknown phase",
            got=unknown[0],
            where="Manifest.needs",
            mend=suggest(unknown[0], _PHASES) or f"phases are: {', '.join(_PHASES)}",
        )


def run_needs(manifest: Manifest) -> Needs:
    """What a worker of this backend needs."""
    return _phase(manifest, "run")


def missing(manifest: Manifest, granted: Needs) -> Needs:
    """What the backend needs, in any phase, and is not granted; empty when nothing is."""
    needed = _phase(manifest, "compile").and_also(_phase(manifest, "run"))
    return Needs(
        network=_left(needed.network, granted.network, _host_covers),
        paths=_left(needed.paths, granted.paths, _path_covers),
        environment=_left(needed.environment, granted.environment, str.__eq__),
        devices=_left(needed.devices, granted.devices, lambda given, need: fnmatchcase(need, given)),
        queue=needed.queue if needed.queue > granted.queue else 0.0,
    )


def _left(needed: Iterable[str], granted: tuple[str, ...], covers: Any) -> tuple[str, ...]:
    return tuple(need for need in needed if not any(covers(given, need) for given in granted))


def _host_covers(given: str, need: str) -> bool:
    host, _, port = given.rpartition(":")
    return given in ("*", need) or (port == "*" and need.rpartition(":")[0] == host)


def _path_covers(given: str, need: str) -> bool:
    return Path(need).expanduser().resolve().is_relative_to(Path(given).expanduser().resolve())


def _phase(manifest: Manifest, phase: str) -> Needs:
    table = manifest.needs.get(phase, {})
    where = f"Manifest.needs of backend '{manifest.name}', phase '{phase}'"
    if not isinstance(table, Mapping):
        raise PluginError("the needs of a phase are a mapping", got=repr(table), where=where)
    return _parse(table, where, PluginError, ("programs",))


def _parse(table: Mapping[str, Any], where: str, kind: type[KevolveError], also: tuple[str, ...]) -> Needs:
    known = (*(f.name for f in fields(Needs)), *also)
    values: dict[str, Any] = {}
    for key, value in table.items():
        place = f"{where}.{key}"
        if key not in known:
            mend = suggest(key, known) or f"keys are: {', '.join(known)}"
            raise kind(f"unknown key '{key}'", got=key, where=place, mend=mend)
        if key in also:
            continue
        values[key] = _value(key, value, place, kind)
    return Needs(**values)


def _value(key: str, value: Any, where: str, kind: type[KevolveError]) -> Any:
    if key == "queue":
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
            return float(value)
        raise kind("'queue' must be a number of seconds", got=repr(value), where=where, mend="queue = 5")
    if key == "network" and isinstance(value, bool):
        return ("*",) if value else ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) and v.strip() for v in value):
        raise kind(f"'{key}' must be a list of strings", got=repr(value), where=where, mend=_EXAMPLE[key])
    for text in value:
        if fault := _fault(key, text):
            raise kind(fault, got=text, where=where, mend=_EXAMPLE[key])
    return tuple(value)


_EXAMPLE = {
    "network": 'network = ["licence.example.com:27000"]',
    "paths": 'paths = ["~/.acme"]',
    "environment": 'environment = ["ACME_LICENSE_FILE"]',
    "devices": 'devices = ["/dev/acme*"]',
}


def _fault(key: str, text: str) -> str:
    host, _, port = text.rpartition(":")
    if key == "network" and text != "*":
        number = port.isdigit() and 0 < int(port) < 65536
        return "" if host and (port == "*" or number) else "a network address is host:port"
    if key == "paths" and not text.startswith(("/", "~")):
        return "a path must be absolute, or begin with ~"
    if key == "devices" and not text.startswith("/dev/"):
        return "a device is a path below /dev"
    if key == "environment" and not text.isidentifier():
        return "an environment variable is named without its value"
    return ""
