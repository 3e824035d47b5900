"""How a candidate opens its native source: `load_native`, and the binding that a runner sets while it loads
one.

A candidate's entry never compiles. It names a native file that lies beside it and the functions it calls; the
compiler has built that file ahead of the run, and the runner that loads the candidate knows where. An
exported kernel carries a stand-alone `load_native` of its language instead of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kevolve_core.errors import KevolveError

__all__ = ["ARGUMENT_CODES", "NativeLoader", "binding", "load_native"]

#: One letter an argument: pointer (an int such as ``tensor.data_ptr()``), int64, int32, double, float.
ARGUMENT_CODES = "plidf"

NativeLoader = Callable[[str, Mapping[str, str]], Any]

_loader: ContextVar[NativeLoader | None] = ContextVar("kevolve_native_loader", default=None)


def load_native(file: str, functions: Mapping[str, str]) -> Any:
    """Open the native ``file`` that lies beside the calling candidate.

    Args:
        file: path relative to the candidate's root (``kernel.cpp``).
        functions: exported function -> its argument codes (`ARGUMENT_CODES`), ``{"rmsnorm": "ppplf"}``. All
        return
            nothing.

    Returns:
        An object with one callable attribute a function.

    Raises:
        KevolveError: outside of a runner, or for a file or function that is not there.
    """
    loader = _loader.get()
    if loader is None:
        raise KevolveError(
            "a candidate's native file can be opened only while a runner loads the candidate",
            got=file,
            mend="evaluate it with `kevolve evaluate`, or export it to run it on its own",
        )
    for name, codes in functions.items():
        if bad := set(codes) - set(ARGUMENT_CODES):
            raise KevolveError(
                f"function '{name}' has unknown argument codes",
                got="".join(sorted(bad)),
                where=file,
                mend=f"use letters of '{ARGUMENT_CODES}'",
            )
    return loader(file, functions)


@contextmanager
def binding(loader: NativeLoader) -> Iterator[None]:
    """While active, `load_native` in this context goes to ``loader``."""
    token = _loader.set(loader)
    try:
        yield
    finally:
        _loader.reset(token)
