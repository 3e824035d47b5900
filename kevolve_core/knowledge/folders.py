"""Which folders a knowledge base is made of: the core's, the plugins', the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kevolve_core.errors import KevolveError
from kevolve_core.knowledge.base import Folder, KnowledgeBase
from kevolve_core.registry import Registry

__all__ = ["base_for", "plugin_folders", "ready_base", "user_folders"]

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


def plugin_folders(registry: Registry, backends: Iterable[str] = ()) -> tuple[Folder, ...]:
    """Folders of the embedder, of plugins, and of ``backends``, each of which is made for that.

    Those of a backend whose manifest says ``confidential`` are confidential as a whole.

    Raises:
        KevolveError: a backend is unknown or not ready.
    """
    found: list[Folder] = []
    for name in backends:
        backend = registry.backend(name)
        secret = backend.manifest.confidential
        found += [Folder(Path(path), name, secret) for path in backend.knowledge()]
    taken = {folder.path for folder in found}
    return (*(Folder(path, "plugin") for path in registry.knowledge() if path not in taken), *found)


def base_for(
    registry: Registry, backends: Iterable[str] = (), folders: Sequence[Path | Folder] = ()
) -> KnowledgeBase:
    """The base of a run: shipped pages, those of plugins and ``backends``, then ``folders``, which may
    replace any of them. Reads no other place: the user's own folders are ``folders`` to the command line."""
    existing = [f if isinstance(f, Folder) else Folder(f, "user") for f in folders]
    return KnowledgeBase.open([*plugin_folders(registry, backends), *existing])


def ready_base(
    registry: Registry, folders: Sequence[Path | Folder] = ()
) -> tuple[KnowledgeBase, tuple[KevolveError, ...]]:
    """The base over every backend that is ready, and why the pages of others are not in it."""
    found: list[Folder] = []
    faults: list[KevolveError] = []
    for name in registry.names("backend"):
        try:
            found += plugin_folders(registry, [name])
        except KevolveError as error:
            faults.append(error)
    own = (f if isinstance(f, Folder) else Folder(f, "user") for f in folders)
    unique = {folder.path: folder for folder in (*plugin_folders(registry), *found, *own)}
    return KnowledgeBase.open(unique.values()), tuple(faults)
