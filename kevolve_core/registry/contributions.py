"""What one plugin, or an embedder, adds to a registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, define

from kevolve_core.errors import PluginError
from kevolve_core.interfaces import Backend, Manifest
from kevolve_core.registry.compat import check_api
from kevolve_core.registry.needs import check_manifest_needs

__all__ = ["KINDS", "BackendFactory", "Contributions"]

#: Makes a backend from the options granted to its plugin. Called once, when the backend is first asked for.
BackendFactory = Callable[[Mapping[str, Any]], Backend]

#: Kinds of named things a registry holds.
KINDS = ("backend", "generator", "provider", "policy", "executor", "problems", "command")

_CALLED = frozenset({"backend", "generator", "provider", "policy", "executor"})


@define(eq=False)
class Contributions:
    """Named things by kind, in the order they were added. A name is unique within its kind."""

    manifests: dict[str, Manifest] = Factory(dict)
    items: dict[str, dict[str, Any]] = Factory(lambda: {kind: {} for kind in KINDS})
    knowledge: list[Path] = Factory(list)

    def add(self, kind: str, name: str, value: Any) -> None:
        """Add ``value`` (a factory, except for problems and commands) under ``name``."""
        where = f"registry.add_{kind}"
        if not isinstance(name, str) or not name or name != name.strip():
            raise PluginError(f"the name of a {kind} must be a non-empty string", got=repr(name), where=where)
        if kind in _CALLED and not callable(value):
            raise PluginError(f"{kind} '{name}' needs a callable factory", got=repr(value), where=where)
        if name in self.items[kind]:
            raise PluginError(f"{kind} '{name}' is added twice", where=where, mend="give each its own name")
        self.items[kind][name] = value

    def add_backend(self, manifest: Manifest, factory: BackendFactory) -> None:
        if not isinstance(manifest, Manifest):
            raise PluginError(
                "a backend is added with a Manifest",
                got=type(manifest).__name__,
                where="registry.add_backend",
                mend="registry.add_backend(Manifest(name=…, …), factory)",
            )
        check_api(manifest)
        check_manifest_needs(manifest)
        self.add("backend", manifest.name, factory)
        self.manifests[manifest.name] = manifest

    def add_knowledge(self, path: Path) -> None:
        self.knowledge.append(Path(path))

    def provides(self) -> dict[str, tuple[str, ...]]:
        """Kind -> names, for the kinds that have any."""
        return {kind: tuple(names) for kind, names in self.items.items() if names}
