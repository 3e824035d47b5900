"""What a manifest promises, checked: API version, options, capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attrs import evolve

from kevolve_core.errors import ConfigError, PluginError, UndeclaredCapabilityError, suggest
from kevolve_core.interfaces import API_VERSION, Manifest
from kevolve_core.model import Device

__all__ = ["IncompatibleError", "check_api", "check_options", "core_version", "narrow", "require"]


class IncompatibleError(PluginError):
    """A plugin was built for another version of the plugin API."""


def core_version() -> str:
    """The installed version of kevolve; ``0`` where it runs from a source tree that is not installed."""
    try:
        return version("kevolve")
    except PackageNotFoundError:
        return "0"


def check_api(manifest: Manifest) -> None:
    """Refuse a manifest of another major, or of a newer minor, than this core's `API_VERSION`.

    Raises:
        IncompatibleError: names the version of kevolve to install.
    """
    asked = manifest.api_version
    if not (isinstance(asked, tuple) and len(asked) == 2 and all(type(n) is int for n in asked)):
        raise PluginError(
            f"the manifest of backend '{manifest.name}' has a malformed api_version",
            got=repr(asked),
            mend=f"api_version=({API_VERSION[0]}, {API_VERSION[1]})",
        )
    if asked[0] == API_VERSION[0] and asked[1] <= API_VERSION[1]:
        return
    have, here = f"{API_VERSION[0]}.{API_VERSION[1]}", core_version()
    want = f"{asked[0]}.{asked[1]}"
    sign = ">" if asked > API_VERSION else "<"
    raise IncompatibleError(
        f"backend '{manifest.name}' was built for plugin API {want}; kevolve {here} has {have}",
        got=want,
        mend=f"pip install 'kevolve{sign}{here}' (a release with plugin API {want}), or a release of the "
        f"plugin that was built for plugin API {have}",
    )


def check_options(manifest: Manifest, options: Mapping[str, Any], where: str) -> None:
    """Check the options granted to a backend against its own JSON Schema.

    Args:
        where: the table the options stand in, for the message.

    Raises:
        ConfigError: an option is unknown (with a suggestion), missing or of a bad value.
        PluginError: the schema itself is not valid.
    """
    schema = dict(manifest.options_schema)
    if not schema:
        return
    from jsonschema import exceptions, validators  # late: it costs a third of the start-up time

    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except exceptions.SchemaError as error:
        raise PluginError(
            f"the options schema of backend '{manifest.name}' is not a valid JSON Schema",
            got=error.message,
            where="Manifest.options_schema",
        ) from error
    found = exceptions.best_match(kind(schema).iter_errors(_plain(options)))
    if found is None:
        return
    key = ".".join([where, *(str(part) for part in found.absolute_path)])
    known = list(found.schema.get("properties", {})) if isinstance(found.schema, Mapping) else []
    if found.validator == "additionalProperties" and isinstance(found.instance, dict) and known:
        unknown = sorted(set(found.instance) - set(known))
        raise ConfigError(
            f"backend '{manifest.name}' has no option '{unknown[0]}'",
            got=unknown[0],
            where=f"{key}.{unknown[0]}",
            mend=suggest(unknown[0], known) or f"options are: {', '.join(sorted(known))}",
        )
    raise ConfigError(
        f"an option of backend '{manifest.name}' is not valid",
        got=found.message,
        where=key,
        mend=_description(found.schema),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _description(schema: Any) -> str | None:
    text = schema.get("description") if isinstance(schema, Mapping) else None
    return str(text) if text else None


def narrow(manifest: Manifest, device: Device) -> Device:
    """``device`` with its capabilities cut to those that the manifest declares."""
    return evolve(device, capabilities=device.capabilities & manifest.capabilities)


def require(holder: Manifest | Device, capability: str) -> None:
    """Refuse ``capability`` where the manifest, or the probe of the device, does not declare it.

    Raises:
        UndeclaredCapabilityError: lists what is declared.
    """
    if capability in holder.capabilities:
        return
    declared = sorted(holder.capabilities)
    what = f"device '{holder.id}'" if isinstance(holder, Device) else f"backend '{holder.name}'"
    raise UndeclaredCapabilityError(
        f"{what} does not declare the capability '{capability}'",
        got=capability,
        where=f"capabilities: {', '.join(declared) or 'none'}",
        mend=suggest(capability, declared) or "choose a device that has it, or leave out what needs it",
    )
