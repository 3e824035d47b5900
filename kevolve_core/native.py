"""What a candidate asks its runner for: `load_native` opens its native source, `replayed` makes its launches
at once; and the binding that a runner sets while it loads one.

A candidate's entry never compiles. It names a native file that lies beside it and the functions it calls; the
compiler has built that file ahead of the run, and the runner that loads the candidate knows where. An
exported kernel carries a stand-alone `load_native` of its language instead of this module, and so it does
`replayed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kevolve_core.errors import KevolveError

__all__ = ["ARGUMENT_CODES", "NativeLoader", "Replayer", "binding", "load_native", "replayed"]

#: One letter an argument: pointer (an int such as ``tensor.data_ptr()``), int64, int32, double, float.
ARGUMENT_CODES = "plidf"

NativeLoader = Callable[[str, Mapping[str, str]], Any]

Run = Callable[..., Any]
Replayer = Callable[[Run, int], Run]

_loader: ContextVar[NativeLoader | None] = ContextVar("kevolve_native_loader", default=None)
_replayer: ContextVar[Replayer | None] = ContextVar("kevolve_replayer", default=None)


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


def replayed(run: Run, inputs: int) -> Run:
    """``run``, its launches made at once from the second call on, where the runner that loads the candidate
    has a way (a captured graph); ``run`` itself elsewhere. Both compute the same.

    Args:
        run: launches kernels on the tensors it is given, and returns what it allocated for its results.
        inputs: how many of them, at the front, a caller brings anew; the rest are weights.
    """
    replayer = _replayer.get()
    return run if replayer is None else replayer(run, inputs)


@contextmanager
def binding(loader: NativeLoader, replayer: Replayer | None = None) -> Iterator[None]:
    """While active, `load_native` in this context goes to ``loader``, and `replayed` to ``replayer``."""
    token, other = _loader.set(loader), _replayer.set(replayer)
    try:
        yield
    finally:
        _loader.reset(token)
        _replayer.reset(other)
