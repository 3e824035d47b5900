"""``plugins.toml``: which plugins load, and what they are granted.

schema = 1

[core]
requires-api = ">=1.0,<2"    # PEP 440 specifier on the plugin API; "1.0" means ">=1.0,<2"
autoload = "listed"          # listed (default): those with a table; all: also every other
                                 # installed one; none: only those with enabled = true

[plugins.NAME]
distribution = "kevolve-NAME"    # where two distributions offer NAME, or to name what to install
version = ">=0.1,<0.2"           # PEP 440 specifier on the distribution
path = "backends/NAME"           # a module file, or a folder with the plugin's package or pyproject.toml
enabled = true
required = false                 # a run is refused where it is not ready
priority = 0                     # the higher one keeps a name that two plugins claim
options = { key = "value" }      # checked against the schema in the backend's manifest
grants = { environment = ["X"] } # what it may have beyond the sandbox; keys in `registry.needs`
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kevolve_core.errors import ConfigError, suggest
from kevolve_core.interfaces import API_VERSION
from kevolve_core.model import freeze
from kevolve_core.registry.needs import Needs, parse_grants

__all__ = ["SCHEMA", "PluginTable", "PluginsFile", "read_plugins_file", "specifier"]

#: Version of the layout of ``plugins.toml`` that this core reads.
SCHEMA = 1

_AUTOLOAD = ("listed", "all", "none")


@frozen
class PluginTable:
    """One ``[plugins.NAME]`` table; ``path`` is absolute."""

    name: str
    distribution: str = ""
    version: str = ""
    path: Path | None = None
    enabled: bool | None = None
    required: bool = False
    priority: int = 0
    options: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    grants: Needs = field(factory=Needs)


@frozen
class PluginsFile:
    """A checked ``plugins.toml``."""

    file: Path
    autoload: str = "listed"
    plugins: Mapping[str, PluginTable] = field(factory=dict, converter=freeze, hash=False)


def read_plugins_file(file: Path) -> PluginsFile:
    """Read and check a ``plugins.toml``.

    Raises:
        ConfigError: it cannot be read, is not TOML, has an unknown key (with a suggestion) or a bad value.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no such plugins file", got=str(file), mend="give the path of a plugins.toml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("a plugins file cannot be read", got=str(error), where=str(file)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            "a plugins file is not valid TOML",
            got=str(error),
            where=str(file),
            mend="correct the line that is named",
        ) from error
    _known_keys(file, "", data, ("schema", "core", "plugins"))
    _check_schema(file, data.get("schema"))
    core = _table(file, "core", data.get("core", {}))
    _known_keys(file, "core", core, ("requires-api", "autoload"))
    _check_api(file, core.get("requires-api"))
    autoload = core.get("autoload", "listed")
    if autoload not in _AUTOLOAD:
        raise ConfigError(
            "autoload has an unknown value",
            got=repr(autoload),
            where=f"{file}:core.autoload",
            mend=suggest(str(autoload), _AUTOLOAD) or f"one of {', '.join(_AUTOLOAD)}",
        )
    tables = _table(file, "plugins", data.get("plugins", {}))
    return PluginsFile(
        file=file,
        autoload=autoload,
        plugins={name: _plugin(file, name, _table(file, f"plugins.{name}", t)) for name, t in tables.items()},
    )


def _check_schema(file: Path, schema: Any) -> None:
    if schema == SCHEMA and not isinstance(schema, bool):
        return
    where = f"{file}:schema"
    if schema is None:
        raise ConfigError(
            "a plugins file states no schema version",
            where=where,
            mend=f"write `schema = {SCHEMA}` on its first line",
        )
    newer = isinstance(schema, int) and schema > SCHEMA
    raise ConfigError(
        "a plugins file has a schema version that this kevolve does not read",
        got=repr(schema),
        where=where,
        mend="pip install --upgrade kevolve" if newer else f"schema = {SCHEMA}",
    )


def _check_api(file: Path, asked: Any) -> None:
    if asked is None:
        return
    where = f"{file}:core.requires-api"
    text = _typed(file, "core.requires-api", asked, str)
    if text[:1].isdigit():
        text = f">={text},<{int(text.partition('.')[0]) + 1}" if text.partition(".")[0].isdigit() else text
    asked_set = specifier(where, text)
    have = f"{API_VERSION[0]}.{API_VERSION[1]}"
    if not asked_set.contains(have):
        raise ConfigError(
            f"the plugins file asks for another plugin API than this kevolve has ({have})",
            got=asked,
            where=where,
            mend=f"install a release of kevolve with plugin API {asked}, or change the file",
        )


def _plugin(file: Path, name: str, table: Mapping[str, Any]) -> PluginTable:
    key = f"plugins.{name}"
    fields = {
        "distribution": str,
        "version": str,
        "path": str,
        "enabled": bool,
        "required": bool,
        "priority": int,
        "options": dict,
        "grants": dict,
    }
    _known_keys(file, key, table, fields)
    values: dict[str, Any] = {k: _typed(file, f"{key}.{k}", v, fields[k]) for k, v in table.items()}
    if "version" in values:
        specifier(f"{file}:{key}.version", values["version"])
    if "path" in values and "version" in values:
        raise ConfigError(
            f"plugin '{name}' has a path and a version",
            where=f"{file}:{key}.version",
            mend="remove the version: what lies at a path has none",
        )
    if "path" in values:
        values["path"] = (file.absolute().parent / Path(values["path"]).expanduser()).resolve()
    values["grants"] = parse_grants(values.get("grants", {}), f"{file}:{key}.grants")
    if values.get("required") and values.get("enabled") is False:
        raise ConfigError(
            f"plugin '{name}' is required and disabled at once",
            where=f"{file}:{key}",
            mend="remove `required` or `enabled = false`",
        )
    try:
        json.dumps(values.get("options", {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "an option has a value that JSON does not have",
            got=str(error),
            where=f"{file}:{key}.options",
            mend="write dates as strings, and no nan or inf",
        ) from error
    return PluginTable(name=name, **values)


def _known_keys(file: Path, key: str, table: Mapping[str, Any], known: Any) -> None:
    for name in table:
        if name not in known:
            place = f"{key}.{name}" if key else name
            raise ConfigError(
                f"unknown key '{name}'",
                got=name,
                where=f"{file}:{place}",
                mend=suggest(name, known) or f"keys are: {', '.join(known)}",
            )


def _table(file: Path, key: str, value: Any) -> Mapping[str, Any]:
    return dict(_typed(file, key, value, dict))


def _typed(file: Path, key: str, value: Any, kind: type) -> Any:
    names = {str: "a string", bool: "true or false", int: "a whole number", dict: "a table"}
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ConfigError(
        f"'{key}' must be {names[kind]}", got=repr(value), where=f"{file}:{key}", mend=names[kind]
    )


def specifier(where: str, text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text, prereleases=True)
    except InvalidSpecifier as error:
        raise ConfigError(
            "not a version specifier", got=repr(text), where=where, mend='for example ">=0.1,<0.2"'
        ) from error
