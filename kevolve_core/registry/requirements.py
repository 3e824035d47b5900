"""What a ``plugins.toml`` lists, as a requirements file for pip or uv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from kevolve_core.registry.config import PluginsFile
from kevolve_core.registry.discovery import distributions_of

__all__ = ["requirements"]


def requirements(file: PluginsFile) -> Sequence[str]:
    """Lines of a requirements file, in the order of ``file``: a distribution with its versions, or the folder
    of a project that is loaded from a path. What is disabled, or is a single file, stands there as a comment.
    """
    lines: list[str] = []
    wanted: dict[str, SpecifierSet] = {}
    place: dict[str, int] = {}
    for name, table in file.plugins.items():
        if table.enabled is False or (file.autoload == "none" and not (table.enabled or table.required)):
            lines.append(f"# {name}: disabled")
        elif table.path is not None and (table.path / "pyproject.toml").is_file():
            lines.append(f"-e {_quoted(table.path)}")
        elif table.path is not None:
            lines.append(f"# {name}: loaded from {table.path}, nothing to install")
        else:
            offered = table.distribution or next(iter(distributions_of(name)), "") or f"kevolve-{name}"
            key = canonicalize_name(offered)
            wanted[key] = wanted.get(key, SpecifierSet()) & SpecifierSet(table.version)
            if key not in place:
                place[key] = len(lines)
                lines.append("")
            lines[place[key]] = f"{offered}{wanted[key]}"
    return lines


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)
