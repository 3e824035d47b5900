"""Requests in plain words resolved against what is installed: a specification, a backend, a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from kevolve_core.errors import RequestError, UnknownNameError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.base import KnowledgeBase
from kevolve_core.knowledge.folders import ready_base
from kevolve_core.knowledge.request import Request, looks_like_request, understand
from kevolve_core.model import Device
from kevolve_core.registry import Registry

__all__ = ["Asked", "is_request", "resolve_request"]


@frozen
class Asked:
    """What a request resolved to. ``backend`` and ``device`` are None where the request names no target."""

    request: Request
    spec: KernelSpec
    backend: str | None = None
    device: str | None = None


def is_request(text: str) -> bool:
    """A request in words, not the path of a specification."""
    return looks_like_request(text) and not Path(text).exists()


def resolve_request(
    text: str,
    registry: Registry,
    *,
    backend: str | None = None,
    device: str | None = None,
    base: KnowledgeBase | None = None,
    backends: Sequence[str] | None = None,
    place: bool = True,
) -> Asked:
    """The specification and the place that ``text`` asks for. Nothing is guessed.

    Args:
        text: ``a Triton kernel for row-wise softmax on NAME``.
        registry: backends whose devices and languages count.
        backend, device: chosen by the caller beside the words; they must agree with them.
        base: knows names of targets; None opens the pages of all ready backends.
        backends: those that count; None: all.
        place: look for a device that serves the target; without, only the specification matters.

    Raises:
        RequestError: something is missing or not understood; ``what`` is the question.
        UnknownNameError: the target is known and no backend that is ready serves it, or the backend does not
            take the language.
    """
    base = ready_base(registry) if base is None else base
    names = registry.names("backend") if backends is None else backends
    languages = {language for page in base for language in page.languages}
    languages |= {language for name in names for language in registry.manifest(name).languages}
    request = understand(text, base.targets, sorted(languages))
    if request.target and place:
        backend, device = _place(request, registry, names, base, backend, device)
    if request.language and backend is not None:
        taken = registry.manifest(backend).languages
        if request.language not in taken:
            raise UnknownNameError(
                f"backend '{backend}' does not take the language '{request.language}'",
                got=request.words(),
                mend=f"it takes: {', '.join(taken)}",
            )
    return Asked(request, request.spec(), backend, device)


def _place(
    request: Request,
    registry: Registry,
    names: Sequence[str],
    base: KnowledgeBase,
    backend: str | None,
    device: str | None,
) -> tuple[str, str]:
    """The backend and the device that serve the request's target."""
    serving = [
        (name, each)
        for name in names
        if backend in (None, name)
        for each in registry.devices(name)
        if device in (None, each.id) and _serves(base, name, each, request.target)
    ]
    if not serving:
        ready = [f"{name} ({each.target.arch})" for name in names for each in registry.devices(name)]
        raise UnknownNameError(
            f"no backend that is ready serves target '{request.target}'",
            got=request.words() + (f", --backend {backend}" if backend else ""),
            where=f"ready: {', '.join(ready) or 'none'}",
            mend="install the plugin of its backend (`kevolve doctor` shows causes), or name another target",
        )
    if len({(name, each.target.arch) for name, each in serving}) > 1:
        found = ", ".join(f"{each.name} ({name}, {each.target.arch})" for name, each in serving)
        raise RequestError(
            f"which of these is meant by '{request.target}'?", got=found, mend="name one, or use --device ID"
        )
    name, first = serving[0]
    return name, first.id


def _serves(base: KnowledgeBase, backend: str, device: Device, target: str) -> bool:
    """The device is the target, or belongs to it. Its architecture says so; the backend's name where no page
    knows the architecture."""
    return target in base.targets.closure(f"{device.target.arch}, {backend}")
