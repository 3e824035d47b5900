"""Opening a built library through ctypes: raw pointers in, nothing out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from attrs import define, field

from kevolve_core.errors import KevolveError

__all__ = ["CTYPES", "LibraryLoader"]

#: `kevolve_core.native.ARGUMENT_CODES` as ctypes.
CTYPES: Mapping[str, Any] = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_int64,
    "i": ctypes.c_int32,
    "d": ctypes.c_double,
    "f": ctypes.c_float,
}


@define
class LibraryLoader:
    """Opens native files of one candidate.

    Every loader opens its own copy of a library: the dynamic linker gives one file one set of static
    variables, and what an earlier candidate left in them must not reach the next one.
    """

    binaries: Mapping[str, str]
    _open: dict[str, tuple[ctypes.CDLL, int]] = field(factory=dict, init=False)

    def __call__(self, file: str, functions: Mapping[str, str]) -> Any:
        """Library ``file`` with ``functions`` as attributes. Raises `KevolveError` for an unknown name."""
        name = file.removeprefix("./")
        if name not in self.binaries:
            raise KevolveError(
                "the candidate opens a native file that was not built",
                got=file,
                where="load_native",
                mend=f"files built: {', '.join(sorted(self.binaries)) or 'none'}",
            )
        library = self._library(self.binaries[name])
        bound = SimpleNamespace()
        for function, codes in functions.items():
            try:
                symbol = getattr(library, function)
            except AttributeError:
                raise KevolveError(
                    "the native file does not export this function",
                    got=function,
                    where=file,
                    mend=f'define it as `extern "C" void {function}(…)`',
                ) from None
            symbol.argtypes = [CTYPES[code] for code in codes]
            symbol.restype = None
            setattr(bound, function, symbol)
        return bound

    def _library(self, path: str) -> ctypes.CDLL:
        if path not in self._open:
            # An anonymous file: a worker that runs candidates may not write to any other. It stays open as
            # long as the library is mapped, because the linker goes by names first: a number used again
            # would open the earlier library in place of this one.
            fd = os.memfd_create("library", os.MFD_CLOEXEC)
            try:
                with open(path, "rb") as built:
                    os.sendfile(fd, built.fileno(), 0, os.fstat(built.fileno()).st_size)
                self._open[path] = (ctypes.CDLL(_name(fd)), fd)
            except FileNotFoundError:
                os.close(fd)
                raise KevolveError(
                    "a built library has left the compile cache",
                    got=path,
                    where="load_native",
                    mend="compile the candidate again",
                ) from None
            except BaseException:
                os.close(fd)
                raise
        return self._open[path][0]

    def close(self) -> None:
        """Unmap the libraries. No function of theirs may be called afterwards."""
        import _ctypes

        for library, fd in self._open.values():
            _ctypes.dlclose(library._handle)
            try:
                still = _ctypes.dlopen(_name(fd), os.RTLD_NOLOAD | os.RTLD_NOW)
            except OSError:
                os.close(fd)  # unmapped: its name is free again
            else:
                _ctypes.dlclose(still)  # it pinned itself (thread-local destructors): its name stays taken
        self._open.clear()


def _name(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
