"""Which folders a knowledge base is made of: the core's, the plugins', the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kevolve_core.errors import KevolveError, PluginError
from kevolve_core.knowledge.base import Folder, KnowledgeBase
from kevolve_core.registry import Registry

__all__ = ["base_for", "ready_base", "user_folders", "with_user_folders"]

_VARIABLE = "KEVOLVE_KNOWLEDGE"


def user_folders() -> tuple[Path, ...]:
    """The user's own folders, the first of which `kevolve kb add` and `learn` write to: those that
    ``KEVOLVE_KNOWLEDGE`` lists (as ``PATH`` does), else ``$XDG_DATA_HOME/kevolve/knowledge`` or
    ``~/.local/share/kevolve/knowledge`` (XDG Base Directory Specification). They need not exist."""
    named = [Path(part).expanduser() for part in os.environ.get(_VARIABLE, "").split(os.pathsep) if part]
    if named:
        return tuple(named)
    data = os.environ.get("XDG_DATA_HOME")
    return ((Path(data) if data else Path.home() / ".local" / "share") / "kevolve" / "knowledge",)


def with_user_folders(registry: Registry) -> Registry:
    """``registry`` with the user's own folders that exist: what a program does that reads the user's files
    anyway, as the command line does. Embedders who pass a registry of theirs decide for themselves."""
    for folder in user_folders():
        if folder.is_dir():
            registry.add_knowledge(folder)
    return registry


def base_for(
    registry: Registry, backends: Iterable[str] = (), folders: Sequence[Path | Folder] = ()
) -> KnowledgeBase:
    """The base of a run: shipped pages, those of ``backends``, those added to the registry, then ``folders``;
    later ones may replace earlier ones. Reads no other place.

    Pages of a backend whose manifest says ``confidential`` are confidential as a whole. A backend whose
    ``knowledge`` fails is among the base's ``faults``: it must not hide everybody else's pages.

    Raises:
        KevolveError: a backend is unknown or not ready.
    """
    found: dict[Path, Folder] = {}
    faults: list[KevolveError] = []
    for name in backends:
        own, fault = _of_backend(registry, name)
        found |= {folder.path: folder for folder in own}
        faults += fault
    for path in registry.knowledge():
        found.setdefault(path, Folder(path, "plugin"))
    given = (f if isinstance(f, Folder) else Folder(f, "user") for f in folders)
    base = KnowledgeBase.open([*found.values(), *(f for f in given if f.path not in found)])
    return KnowledgeBase(base, (*faults, *base.faults))


def ready_base(registry: Registry, folders: Sequence[Path | Folder] = ()) -> KnowledgeBase:
    """`base_for` every backend that is ready; why the pages of others are not in it is among its
    ``faults``."""
    ready: list[str] = []
    faults: list[KevolveError] = []
    for name in registry.names("backend"):
        try:
            registry.backend(name)
        except KevolveError as error:
            faults.append(error)
        else:
            ready.append(name)
    base = base_for(registry, ready, folders)
    return KnowledgeBase(base, (*faults, *base.faults))


def _of_backend(registry: Registry, name: str) -> tuple[list[Folder], list[KevolveError]]:
    backend = registry.backend(name)
    secret = backend.manifest.confidential
    derived = (f"backend:{name}",) if secret else ()
    try:
        return [Folder(Path(path), name, secret, derived) for path in backend.knowledge()], []
    except Exception as error:  # whatever a plugin's own code raises
        fault = f"{type(error).__name__}: {error}"
        said = PluginError(f"backend '{name}' does not tell its knowledge folders", got=fault)
        return [], [said]
