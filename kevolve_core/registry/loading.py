"""A backend in a worker process, from the reference that the run carries."""

from __future__ import annotations

from kevolve_core.errors import KevolveError, PluginError, suggest
from kevolve_core.interfaces import Backend, BackendRef
from kevolve_core.registry.faults import exception_fault
from kevolve_core.registry.registry import stage
from kevolve_core.registry.source import PluginSource

__all__ = ["load_backend"]


def load_backend(ref: BackendRef) -> Backend:
    """The backend that ``ref`` names, in a worker process: imports that one plugin, reads no configuration.

    Raises:
        PluginError: the plugin does not import or register, or offers no such backend; the cause is chained.
    """
    where = f"plugin {ref.plugin}"
    try:
        added = stage(PluginSource.parse(ref.plugin).load(), ref.plugin)
        if ref.backend not in added.manifests:
            raise PluginError(
                f"the plugin offers no backend '{ref.backend}'",
                got=ref.backend,
                where=where,
                mend=suggest(ref.backend, added.manifests) or None,
            )
        backend: Backend = added.items["backend"][ref.backend](dict(ref.options))
    except KevolveError:
        raise
    except (Exception, SystemExit) as error:
        raise exception_fault(error, "loading it in a worker").error(
            f"backend '{ref.backend}' cannot be loaded", where
        ) from error
    return backend
