"""The loader that exported kernels carry instead of `kevolve_core.native`."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["loader_source"]

_MARK = "# --- carried by exported kernels from here on ---\n"


def loader_source() -> str:
    """Python source that defines ``load_native(file, functions)``.

    It expects the module's dict ``_SOURCES`` (native file -> text), builds a file through NVRTC when one of
    its kernels is first launched, with the flags that this backend's compiler uses, and needs torch and
    cuda-bindings only. A kernel in Triton carries none of it.
    """
    folder = Path(__file__).parent
    names = ("launch.py", "carried.py")
    text = "\n\n".join((folder / name).read_text().partition(_MARK)[2] for name in names)
    return re.sub(r"  # noqa.*", "", text)
