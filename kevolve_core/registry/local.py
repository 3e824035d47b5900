"""Probing a backend in the process that runs this: the end of a probe's subprocess, and what an embedder's
run-time objects get, which no other process can import."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kevolve_core.errors import PluginError
from kevolve_core.interfaces import Manifest
from kevolve_core.model import Device
from kevolve_core.registry.compat import check_options, narrow
from kevolve_core.registry.contributions import BackendFactory
from kevolve_core.registry.faults import exception_fault
from kevolve_core.registry.status import Fault, PluginState
from kevolve_core.serial import to_plain

__all__ = ["devices_of", "probe_backend"]


def probe_backend(
    manifest: Manifest, factory: BackendFactory, options: Mapping[str, Any], options_where: str
) -> tuple[tuple[Device, ...], Fault | None]:
    """Make a backend and probe it here, with what it raises as a fault."""
    doing = f"making backend '{manifest.name}'"
    try:
        check_options(manifest, options, options_where)
        backend = factory(options)
        doing = f"probing backend '{manifest.name}'"
        devices = devices_of(manifest, backend.probe())
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return (), exception_fault(error, doing)
    if not devices:
        return (), Fault(
            PluginState.UNAVAILABLE,
            f"backend '{manifest.name}' found no device on this machine",
            "check the device and its driver, then refresh with `kevolve plugins doctor`",
        )
    return devices, None


def devices_of(manifest: Manifest, found: Any) -> tuple[Device, ...]:
    """Checked devices, narrowed to the manifest's capabilities. Raises PluginError for what is not one."""
    if not isinstance(found, Sequence) or not all(isinstance(device, Device) for device in found):
        raise PluginError("probe() must return a sequence of Device", got=repr(found)[:200])
    for device in found:
        if device.backend != manifest.name:
            raise PluginError(
                f"device '{device.id}' names another backend than '{manifest.name}'", got=repr(device.backend)
            )
        try:
            json.dumps(to_plain(device))
        except TypeError as error:
            raise PluginError(
                f"a fact of device '{device.id}' is not a JSON value", got=str(error), mend="use plain values"
            ) from error
    if len({device.id for device in found}) < len(found):
        raise PluginError("two devices have one id", got=", ".join(device.id for device in found))
    return tuple(narrow(manifest, device) for device in found)
