"""The loader that exported kernels carry instead of `kevolve_core.native`."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["loader_source"]

_MARK = "carried by exported kernels from here on ---\n"


def loader_source() -> str:
    """Python source in two parts (see `kevolve_core.bundle.export`), of which an export carries what it uses.

    The first defines ``load_native(file, functions)``. It expects the module's dict ``_SOURCES`` (native file
    -> text), builds a file through NVRTC when one of its kernels is first launched, with the flags that this
    backend's compiler uses, and needs torch and cuda-bindings only. The second defines ``replayed(run,
    inputs)`` by CUDA graphs and needs torch alone. A kernel in Triton carries the second at most.
    """
    native = "\n\n".join(_carried(name) for name in ("launch.py", "carried.py"))
    graphs = _carried("graphs.py")
    return f"# --- load_native: NVRTC ---\n{native}\n\n# --- replayed: CUDA graphs ---\n{graphs}"


def _carried(name: str) -> str:
    text = (Path(__file__).parent / name).read_text().partition(_MARK)[2]
    return re.sub(r"  # noqa.*", "", text)
