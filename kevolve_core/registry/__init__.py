"""Plugins: what they may add, how they are found, in which state they are, and how they are kept apart."""

from kevolve_core.registry.compat import require
from kevolve_core.registry.contributions import KINDS, BackendFactory
from kevolve_core.registry.discovery import discover
from kevolve_core.registry.hookspecs import ENTRY_POINT_GROUP, hookimpl
from kevolve_core.registry.loading import load_backend
from kevolve_core.registry.registry import Registry
from kevolve_core.registry.status import PluginState, PluginStatus

__all__ = [
    "ENTRY_POINT_GROUP",
    "KINDS",
    "BackendFactory",
    "PluginState",
    "PluginStatus",
    "Registry",
    "discover",
    "hookimpl",
    "load_backend",
    "require",
]
