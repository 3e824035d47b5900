"""Importing a candidate's entry in a worker, and forgetting it again."""

from __future__ import annotations

import gc
import importlib.util
import sys
import types
from pathlib import Path, PurePosixPath
from typing import Any

from kevolve_core.errors import KevolveError
from kevolve_core.model import Artifact

__all__ = ["EntryModules", "entry_of", "exported"]


class EntryModules:
    """The modules of one candidate at a time. Its folder stays importable until `reset`, for imports inside
    functions."""

    def __init__(self) -> None:
        self._folder = ""
        self._loads = 0

    def load(self, folder: Path, entry: str) -> types.ModuleType:
        """Import ``entry`` from ``folder``. Raises whatever the import raises."""
        self._folder = str(folder.resolve())
        self._loads += 1
        name = f"_kevolve_candidate_{self._loads}_{PurePosixPath(entry).stem}"
        spec = importlib.util.spec_from_file_location(name, folder / entry)
        if spec is None or spec.loader is None:
            raise KevolveError("the candidate's entry is no Python module", got=entry, where=self._folder)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # pickling and dataclasses look a module up by its name
        sys.path.insert(0, self._folder)
        spec.loader.exec_module(module)
        return module

    def reset(self) -> None:
        """Forget the candidate: its modules and its place on the import path."""
        if not self._folder:
            return
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(self._folder + "/"):
                del sys.modules[name]
        while self._folder in sys.path:
            sys.path.remove(self._folder)
        self._folder = ""
        gc.collect()


def entry_of(artifact: Artifact, candidate_dir: Path) -> str:
    """The entry's file: the artifact's fact ``entry``, which compilers note, or the only module there is."""
    named = artifact.facts.get("entry")
    if named:
        return str(named)
    modules = sorted(p.name for p in candidate_dir.glob("*.py"))
    if len(modules) == 1:
        return modules[0]
    raise KevolveError(
        "it is not clear which module is the candidate's entry",
        got=", ".join(modules) or "no Python file",
        where=str(candidate_dir),
        mend="compile it with this backend's compiler, which notes the entry",
    )


def exported(module: types.ModuleType, symbol: str, fallback: str) -> Any:
    """What an entry defines: ``symbol``, or without one ``ModelNew`` or the reference's name ``fallback``.

    Raises:
        KevolveError: it defines none of them.
    """
    for name in (symbol,) if symbol else ("ModelNew", fallback):
        found = getattr(module, name, None)
        if found is not None:
            return found
    wanted = symbol or f"ModelNew or {fallback}"
    raise KevolveError("the candidate's entry does not define what it should", got=f"no {wanted}")
