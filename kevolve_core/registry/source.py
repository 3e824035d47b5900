"""Where a plugin's code is, as text that another process understands, and how to import it there."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from kevolve_core.errors import PluginError

__all__ = ["PluginSource", "source_of"]

#: Files looked at for a fingerprint; a plugin is small, and a larger tree is cut here (estimated).
_MOST_FILES = 2000


@frozen
class PluginSource:
    """A module (with the folder to import it from, where it is not installed) or a file, and an attribute.

    As text, in `BackendRef.plugin`: ``module``, ``module:attribute``, ``module@/folder``, ``/path/file.py``.
    """

    module: str = ""
    attribute: str = ""
    folder: str = ""
    file: str = ""

    def __str__(self) -> str:
        attribute = f":{self.attribute}" if self.attribute else ""
        folder = f"@{self.folder}" if self.folder else ""
        return f"{self.file or self.module}{attribute}{folder}"

    @classmethod
    def parse(cls, text: str) -> PluginSource:
        """The inverse of ``str``. Raises PluginError for text that names nothing."""
        if text.startswith("/"):
            file, _, attribute = text.partition(".py:")
            return cls(file=f"{file}.py" if attribute else text, attribute=attribute)
        name, _, folder = text.partition("@")
        module, _, attribute = name.partition(":")
        if not module:
            raise PluginError(
                "a plugin's source names no module", got=repr(text), mend="module, or module:attribute"
            )
        return cls(module=module, attribute=attribute, folder=folder)

    def load(self) -> Any:
        """Import the plugin object. Raises whatever its import raises, and PluginError for a missing
        attribute."""
        plugin: Any = self._import()
        for part in self.attribute.split(".") if self.attribute else ():
            if not hasattr(plugin, part):
                raise PluginError(f"the plugin's module has no attribute '{part}'", where=str(self))
            plugin = getattr(plugin, part)
        return plugin

    def _import(self) -> ModuleType:
        if self.file:
            return _import_file(Path(self.file))
        if self.folder and self.folder not in sys.path:
            sys.path.insert(0, self.folder)
            importlib.invalidate_caches()
        return importlib.import_module(self.module)

    def location(self) -> Path | None:
        """The folder of the plugin's package (of its file, where it is one), found without importing it."""
        top = Path(self.file) if self.file else _top_level(self.module.partition(".")[0], self.folder)
        return None if top is None else top if top.is_dir() else top.parent

    def fingerprint(self) -> str:
        """Changes when the plugin's own files change, with the package that a file is part of; found without
        importing anything."""
        top = Path(self.file) if self.file else _top_level(self.module.partition(".")[0], self.folder)
        if self.file and Path(self.file).with_name("__init__.py").exists():
            top = Path(self.file).parent
        digest = hashlib.sha256(str(self).encode())
        for file in _python_files(top) if top else ():
            try:
                stat = file.stat()
            except OSError:
                continue  # removed while we look: its absence is itself a change
            digest.update(f"{file}\0{stat.st_mtime_ns}\0{stat.st_size}\0".encode())
        return digest.hexdigest()[:16]


def _import_file(file: Path) -> ModuleType:
    # Two plugins may both be called plugin.py: each gets a module name of its own.
    name = f"_kevolve_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError("a plugin's file is not a Python module", got=str(file))
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _top_level(name: str, folder: str) -> Path | None:
    # PathFinder only looks: unlike importlib.util.find_spec it imports no parent package.
    spec = PathFinder.find_spec(name, [folder, *sys.path] if folder else None)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _python_files(top: Path) -> list[Path]:
    if not top.is_dir():
        return [top]
    found: list[Path] = []
    for folder, folders, files in os.walk(top):
        folders.sort()
        found += [Path(folder, file) for file in sorted(files) if file.endswith((".py", ".so"))]
        if len(found) >= _MOST_FILES:
            break
    return found[:_MOST_FILES]


def source_of(plugin: object) -> PluginSource | None:
    """How another process can import ``plugin`` again; None where it cannot (made at run time, or in
    ``__main__``)."""
    if isinstance(plugin, ModuleType):
        return _module_source(plugin, "")
    module = sys.modules.get(getattr(plugin, "__module__", "") or "")
    if module is None:
        return None
    for attribute, value in vars(module).items():
        if value is plugin:
            return _module_source(module, attribute)
    return None


def _module_source(module: ModuleType, attribute: str) -> PluginSource | None:
    name, origin = module.__name__, getattr(module, "__file__", None)
    if name == "__main__" or sys.modules.get(name) is not module or origin is None:
        return None
    file = Path(origin).absolute()
    if name.startswith("_kevolve_plugin_"):
        return PluginSource(file=str(file), attribute=attribute)
    depth = name.count(".") + (1 if file.name == "__init__.py" else 0)
    root = file.parents[depth]
    top = root / name.partition(".")[0]
    if not (top.is_dir() or top.with_suffix(".py").is_file()):
        return None
    # Not by sysconfig: it would read a file, and a program that embeds us is promised that none is read.
    installed = root.name in ("site-packages", "dist-packages") or root == Path(os.__file__).parent
    return PluginSource(module=name, attribute=attribute, folder="" if installed else str(root))
