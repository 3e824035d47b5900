"""Triton for every target that speaks it: the recording driver, the renderer, and its schedule spaces.

Importing this package does not import Triton.
"""

from kevolve_core.languages.triton.recording import (
    Launch,
    TritonTarget,
    compile_launch,
    kernel_key,
    launch_key,
    record,
)
from kevolve_core.languages.triton.render.renderer import REPLAY, TritonRenderer
from kevolve_core.languages.triton.spaces import TritonFacts, schedule_space

__all__ = [
    "REPLAY",
    "Launch", "TritonFacts", "TritonRenderer", "TritonTarget", "compile_launch", "kernel_key",
    "launch_key", "record", "schedule_space",
]  # fmt: skip
