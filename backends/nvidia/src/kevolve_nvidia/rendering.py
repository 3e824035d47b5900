"""Renderers and schedule spaces of this backend: Triton's, which every target that speaks it shares."""

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
    from kevolve_core.languages.triton import TritonRenderer

    return {"triton": TritonRenderer()}


def schedule_space(step: Step, device: Device, language: str) -> Space:
    """Tunables of ``step`` in ``language``, within the limits of ``device``. Raises `UnsupportedError` for a
    language without a renderer."""
    if language != "triton":
        raise UnsupportedError(
            "the nvidia backend renders no such language", got=language, mend="the language is 'triton'"
        )
    from kevolve_core.languages.triton import TritonFacts
    from kevolve_core.languages.triton import schedule_space as triton_space

    facts = TritonFacts(
        processors=int(device.facts.get("multiprocessors", 132)),
        warp_size=32,
        max_threads=1024,
        shared_bytes=int(device.facts.get("shared_bytes_per_block", 227 << 10)),
    )
    return triton_space(step, facts)
