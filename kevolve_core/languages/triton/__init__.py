"""Triton for every target that speaks it: the recording driver, the renderer, and its schedule spaces.

Importing this package does not import Triton.
"""

from kevolve_core.languages.triton.recording import (
    Launch,
    TritonTarget,
    compile_launch,
    launch_key,
    record,
)

__all__ = ["Launch", "TritonTarget", "compile_launch", "launch_key", "record"]
