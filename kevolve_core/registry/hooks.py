"""Calling a plugin's hooks, one plugin at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pluggy

from kevolve_core.errors import KevolveError, PluginError, suggest
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.model import Evaluation
from kevolve_core.registry import hookspecs

if TYPE_CHECKING:
    from kevolve_core.registry.registry import Registry

__all__ = ["Hooks", "hook_names", "register_into"]

_log = logging.getLogger("kevolve.plugins")

_HOOKS = ("kevolve_register", "kevolve_evaluate", "kevolve_event")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _checked(plugin: object, name: str) -> pluggy.PluginManager:
    """A manager that holds ``plugin`` alone, with its hooks checked against the specification."""
    manager = _manager()
    manager.register(plugin, name=name)
    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            raise PluginError(
                f"plugin '{name}' implements a hook that does not exist",
                got=caller.name,
                mend=suggest(caller.name, _HOOKS) or f"hooks are: {', '.join(_HOOKS)}",
            )
    if not callers:
        raise PluginError(
            f"plugin '{name}' implements no hook",
            got=getattr(plugin, "__name__", type(plugin).__name__),
            mend="mark its functions with @kevolve_core.registry.hookimpl, at least kevolve_register",
        )
    return manager


def hook_names(plugin: object, name: str) -> tuple[str, ...]:
    """The hooks that ``plugin`` implements."""
    return tuple(sorted(c.name for c in _checked(plugin, name).get_hookcallers(plugin) or ()))


def register_into(plugin: object, name: str, registry: Registry) -> None:
    """Call ``kevolve_register`` of ``plugin`` alone. Raises PluginError for unknown hooks or none, else what
    the hook raises."""
    _checked(plugin, name).hook.kevolve_register(registry=registry)


class _Innermost:
    """The end of the ``kevolve_evaluate`` chain: the executor of the call in progress."""

    def __init__(self) -> None:
        self.run: ContextVar[Callable[[EvaluationRequest], Evaluation]] = ContextVar("kevolve_evaluate")

    @hookspecs.hookimpl(trylast=True)
    def kevolve_evaluate(self, request: EvaluationRequest) -> Evaluation:
        return self.run.get()(request)


class Hooks:
    """The plugins in use, and the two hooks that are called during a run."""

    def __init__(self) -> None:
        self._manager = _manager()
        self._innermost = _Innermost()
        self._manager.register(self._innermost, name="kevolve")
        self._observers: list[tuple[str, Callable[..., Any]]] = []
        self._silenced: set[str] = set()
        self._wrapped = False

    def use(self, plugin: object, name: str) -> None:
        """Call the hooks of ``plugin`` from now on. The latest used stands outermost."""
        # Each observer is called by itself, so that one that raises does not keep an event from the others.
        alone = _checked(plugin, name).hook.kevolve_event
        self._manager.register(plugin, name=name)
        if alone.get_hookimpls():
            self._observers.append((name, alone))
        self._wrapped = len(self._manager.hook.kevolve_evaluate.get_hookimpls()) > 1

    def emit(self, event: Any) -> None:
        """Tell every observer. What one raises is logged once for each plugin and goes no further."""
        for name, observer in self._observers:
            try:
                observer(event=event)
            except (Exception, SystemExit):
                if name not in self._silenced:
                    self._silenced.add(name)
                    _log.warning(
                        "plugin '%s' failed in kevolve_event; its further errors are not logged",
                        name,
                        exc_info=True,
                    )

    def evaluate(
        self, request: EvaluationRequest, run: Callable[[EvaluationRequest], Evaluation]
    ) -> Evaluation:
        """``run(request)`` with every plugin's ``kevolve_evaluate`` around it."""
        if not self._wrapped:
            return run(request)
        own: list[BaseException] = []

        def guarded(asked: EvaluationRequest) -> Evaluation:
            try:
                return run(asked)
            except BaseException as error:
                own.append(error)
                raise

        token = self._innermost.run.set(guarded)
        try:
            result = self._manager.hook.kevolve_evaluate(request=request)
        except KevolveError:
            raise
        except Exception as error:
            if any(error is known for known in own):
                raise
            raise PluginError(
                "a plugin failed around an evaluation",
                got=f"{type(error).__name__}: {error}",
                where="kevolve_evaluate",
                mend="disable the plugin in plugins.toml, or raise a KevolveError from its hook",
            ) from error
        finally:
            self._innermost.run.reset(token)
        if not isinstance(result, Evaluation):
            raise PluginError(
                "a plugin returned something else than an Evaluation",
                got=type(result).__name__,
                where="kevolve_evaluate",
                mend="return what the yield gave",
            )
        return result
