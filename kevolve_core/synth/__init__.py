"""Synthesis: operator graph -> fusion groups -> loop IR -> genome -> source. Knows no target.

The names here import torch when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kevolve_core.synth.capture import capture
    from kevolve_core.synth.generator import SynthGenerator
    from kevolve_core.synth.interpret import run_program
    from kevolve_core.synth.program import Partition, synthesise
    from kevolve_core.synth.reference import graph_of
    from kevolve_core.synth.work import program_work, step_work

__all__ = [
    "Partition", "SynthGenerator", "capture", "graph_of", "program_work", "run_program", "step_work",
    "synthesise",
]  # fmt: skip

_HOMES = {
    "Partition": "program",
    "SynthGenerator": "generator",
    "capture": "capture",
    "graph_of": "reference",
    "program_work": "work",
    "run_program": "interpret",
    "step_work": "work",
    "synthesise": "program",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
