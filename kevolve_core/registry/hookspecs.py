"""The hooks a plugin may implement, and the marker it implements them with.

A plugin is a module named by an entry point of the group `ENTRY_POINT_GROUP` (or an object that an embedder
passes to `Registry.register`). It marks its functions with `hookimpl`:

    from kevolve_core.registry import Registry, hookimpl

    @hookimpl
    def kevolve_register(registry: Registry) -> None:
        registry.add_backend(MANIFEST, make_backend)

The module must import without the vendor's libraries: those are imported by the factory or by a part of the
backend, when it is first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from kevolve_core.interfaces import EvaluationRequest
    from kevolve_core.model import Evaluation
    from kevolve_core.registry.registry import Registry

__all__ = [
    "ENTRY_POINT_GROUP",
    "PROJECT",
    "hookimpl",
    "kevolve_evaluate",
    "kevolve_event",
    "kevolve_register",
]

#: Entry points of this group name plugin modules; its number is the major of `API_VERSION`.
ENTRY_POINT_GROUP = "kevolve.plugins.v1"

PROJECT = "kevolve"

hookspec = pluggy.HookspecMarker(PROJECT)

#: Marks a function of a plugin as the implementation of the hook of the same name.
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kevolve_register(registry: Registry) -> None:
    """Add what the plugin offers, with the ``add_*`` methods of ``registry``.

    ``registry`` holds only this plugin's own contributions: an exception here discards them all and makes the
    plugin ``broken``, and no other plugin notices.
    """


@hookspec(firstresult=True)
def kevolve_evaluate(request: EvaluationRequest) -> Evaluation | None:
    """Stand around or in front of every evaluation: quota, audit, a cache.

    With ``@hookimpl(wrapper=True)`` it is a generator that yields once, gets the evaluation from the yield
    and returns one. As a plain function it answers in place of the executor (a cache), or returns None to let
    it through. What it raises ends the evaluation: raise a `KevolveError` that says what to do.
    """


@hookspec
def kevolve_event(event: Any) -> None:
    """Observe an event of a run. What it raises is logged once a plugin and changes nothing."""
