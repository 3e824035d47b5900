"""The loader that exported kernels carry instead of `kevolve_core.native`."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["loader_source"]

_MARK = "# --- carried by exported kernels from here on ---\n"


def loader_source() -> str:
    """Python source that defines ``load_native(file, functions)``.

    It expects the module's dict ``_SOURCES`` (native file -> text), builds those at the first call with g++
    or clang++ and the flags that this backend's compiler uses, keeps the library in the user's cache folder,
    and needs the standard library only. Import torch first: its OpenMP runtime is then used.
    """
    folder = Path(__file__).parent
    text = "".join((folder / name).read_text().partition(_MARK)[2] for name in ("isa.py", "carried.py"))
    return re.sub(r"  # noqa.*", "", text)
