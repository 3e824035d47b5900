"""``conformance.toml``: what a vendor tells the conformance kit about his backend.

    schema = 1
    backend = "acme"
    tiers = [0, 2]                              # those claimed; what `kevolve conformance acme` runs
    probes = "kevolve_acme.probes:kernels"      # where the backend has no method `probe_kernels`

    [device]                                    # compile for it where no device is found (tier 0)
    id = "acme:0"
    name = "Acme X1"
    arch = "x1"
    facts = {cores = 64}

    [[expected_failures]]
    id = "timing.floor"
    reason = "the clock of revision A counts in steps of 10 us"
    issue = "https://acme.example/issues/7"

An expected failure that passes, or whose id is no check, is stale and fails: the file never hides what works.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from kevolve_core.errors import ConfigError, suggest
from kevolve_core.model import Device, Target, freeze

__all__ = ["EXPECTATIONS_FILE", "TIERS", "ExpectedFailure", "Expectations", "read_expectations"]

EXPECTATIONS_FILE = "conformance.toml"
SCHEMA = 1
#: 0 needs no hardware, 1 is a simulator, 2 a device.
TIERS = (0, 1, 2)

_KEYS = ("schema", "backend", "tiers", "probes", "device", "expected_failures")
_FAILURE_KEYS = ("id", "reason", "issue")
_DEVICE_KEYS = ("id", "name", "arch", "options", "facts", "capabilities")


@frozen
class ExpectedFailure:
    """A check that is known to fail: its id, why, and where that is tracked."""

    id: str
    reason: str
    issue: str


@frozen
class Expectations:
    """A checked ``conformance.toml``; an empty one where a backend has none.

    Args:
        file: where it was read, None where there is none.
        backend: the backend it is about, "" for any.
        tiers: tiers the vendor claims; empty: 0, and 1 or 2 by the evidence of the backend's times.
        probes: ``module:attribute`` of a function of the device that gives `ProbeKernels`, or "".
        device: keys of a `Device` to compile for where none is found.
        failures: by id.
    """

    file: Path | None = None
    backend: str = ""
    tiers: tuple[int, ...] = ()
    probes: str = ""
    device: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    failures: Mapping[str, ExpectedFailure] = field(factory=dict, converter=freeze, hash=False)

    def described_device(self, backend: str, capabilities: frozenset[str]) -> Device | None:
        """The device that the file describes, or None."""
        if not self.device:
            return None
        given = self.device
        return Device(
            id=given["id"],
            backend=backend,
            name=given.get("name", given["id"]),
            target=Target(backend, given["arch"], given.get("options", {})),
            capabilities=frozenset(given.get("capabilities", capabilities)),
            facts=given.get("facts", {}),
        )


def read_expectations(file: Path) -> Expectations:
    """Read and check a ``conformance.toml``.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key (with a suggestion) or a bad value.
    """
    where = str(file)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("there is no such file", got=where, mend="name a conformance.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("a conformance file cannot be read", got=str(error), where=where) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("a conformance file is not valid TOML", got=str(error), where=where) from error
    _known(data, _KEYS, where, "")
    if data.get("schema") != SCHEMA:
        raise ConfigError(
            "a conformance file states no schema version, or one that this kevolve does not read",
            got=repr(data.get("schema")),
            where=f"{where}:schema",
            mend=f"write `schema = {SCHEMA}` on its first line",
        )
    tiers = _typed(data, "tiers", list, where, [])
    if bad := [tier for tier in tiers if tier not in TIERS or isinstance(tier, bool)]:
        raise ConfigError("there is no such tier", got=bad[0], where=f"{where}:tiers", mend="tiers = [0, 2]")
    probes = _typed(data, "probes", str, where, "")
    if probes and not all(part.strip() for part in (*probes.partition(":")[::2], probes)):
        raise ConfigError(
            "'probes' names no attribute of a module",
            got=probes,
            where=f"{where}:probes",
            mend='probes = "package.module:function"',
        )
    return Expectations(
        file=file,
        backend=_typed(data, "backend", str, where, ""),
        tiers=tuple(tiers),
        probes=probes,
        device=_device(_typed(data, "device", dict, where, {}), where),
        failures={f.id: f for f in _failures(data.get("expected_failures", []), where)},
    )


def _device(table: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    place = f"{where}:device"
    _known(table, _DEVICE_KEYS, where, "device")
    for key in ("id", "arch") if table else ():
        if not isinstance(table.get(key), str):
            raise ConfigError(
                f"[device] needs '{key}', a string", where=place, mend='id = "acme:0", arch = "x1"'
            )
    return table


def _failures(given: Any, where: str) -> Sequence[ExpectedFailure]:
    place = f"{where}:expected_failures"
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ConfigError(
            "expected failures are an array of tables",
            got=type(given).__name__,
            where=place,
            mend="write [[expected_failures]] before each, with id, reason and issue",
        )
    found: dict[str, ExpectedFailure] = {}
    for each in given:
        _known(each, _FAILURE_KEYS, where, "expected_failures")
        for key in _FAILURE_KEYS:
            if not isinstance(each.get(key), str) or not each[key].strip():
                raise ConfigError(
                    f"an expected failure has no '{key}'",
                    got=each.get("id", each),
                    where=place,
                    mend="each has id, reason and issue: what fails, why, and where that is tracked",
                )
        if each["id"] in found:
            raise ConfigError("an expected failure is listed twice", got=each["id"], where=place)
        found[each["id"]] = ExpectedFailure(each["id"], each["reason"], each["issue"])
    return tuple(found.values())


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str, prefix: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigError(
                f"unknown key '{key}'",
                got=key,
                where=f"{where}:{prefix}.{key}" if prefix else f"{where}:{key}",
                mend=suggest(key, keys) or f"keys are: {', '.join(keys)}",
            )


def _typed(table: Mapping[str, Any], key: str, kind: type, where: str, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        names: dict[type, str] = {str: "a string", list: "a list", dict: "a table"}
        raise ConfigError(f"'{key}' must be {names[kind]}", got=repr(value), where=f"{where}:{key}")
    return value
