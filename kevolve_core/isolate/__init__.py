"""Worker processes: how code that may crash, hang or cheat is kept away from what judges it."""

from kevolve_core.isolate.process import Limits, WorkerProcess
from kevolve_core.isolate.tensors import Block, open_block, pack_block

__all__ = ["Block", "Limits", "WorkerProcess", "open_block", "pack_block"]
