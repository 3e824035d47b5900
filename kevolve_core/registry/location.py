"""The plugin module that a ``path`` in ``plugins.toml`` stands for; found by looking at files alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

from kevolve_core.errors import ConfigError
from kevolve_core.registry.hookspecs import ENTRY_POINT_GROUP
from kevolve_core.registry.source import PluginSource

__all__ = ["locate"]


def locate(name: str, path: Path, where: str) -> PluginSource:
    """Where the plugin ``name`` is under ``path``: a module file, a project folder (its ``pyproject.toml``
    names the module), or a folder that holds ``kevolve_NAME/plugin.py`` or a module of the plugin's name.

    Raises:
        ConfigError: there is no plugin at that path.
    """
    if path.is_file() and path.suffix == ".py":
        return PluginSource(file=str(path))
    if not path.is_dir():
        raise ConfigError(
            f"the path of plugin '{name}' is neither a folder nor a Python file",
            got=str(path),
            where=where,
            mend="paths are relative to the folder of plugins.toml",
        )
    declared = _declared(name, path)
    plain = name.replace("-", "_")
    candidates = [declared] if declared else [f"kevolve_{plain}.plugin", f"{plain}.plugin", plain]
    for folder in (path, path / "src"):
        for candidate in candidates:
            module, _, attribute = candidate.partition(":")
            place = folder.joinpath(*module.split("."))
            if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
                return PluginSource(module=module.strip(), attribute=attribute.strip(), folder=str(folder))
    raise ConfigError(
        f"there is no plugin '{name}' in that folder",
        got=str(path),
        where=where,
        mend=f"give the module's file, or a folder with one of: {', '.join(candidates)}",
    )


def _declared(name: str, path: Path) -> str:
    """The entry point ``name`` in the folder's ``pyproject.toml``; of one that declares a single plugin, that
    one."""
    file = path / "pyproject.toml"
    if not file.is_file():
        return ""
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(
            "a plugin's pyproject.toml cannot be read", got=str(error), where=str(file)
        ) from error
    points = project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
    if name in points:
        return str(points[name])
    return str(next(iter(points.values()))) if len(points) == 1 else ""
