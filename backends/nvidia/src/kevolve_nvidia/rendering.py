"""Renderers and schedule spaces of this backend: those of the languages that several targets share."""

from __future__ import annotations

from collections.abc import Mapping

from kevolve_core.errors import UnsupportedError
from kevolve_core.interfaces import Renderer
from kevolve_core.ir import Step
from kevolve_core.model import Device
from kevolve_core.space import Space

__all__ = ["renderers", "schedule_space"]


def renderers() -> Mapping[str, Renderer]:
    """Language -> renderer."""
    return {}


def schedule_space(step: Step, device: Device, language: str) -> Space:
    """Tunables of ``step`` in ``language``. Raises `UnsupportedError` for a language without a renderer."""
    del step, device
    raise UnsupportedError("the nvidia backend renders no such language", got=language)
