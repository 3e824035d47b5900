"""CUDA's driver API through cuda-bindings, with its result codes as exceptions."""

from __future__ import annotations

from typing import Any

from kevolve_core.errors import KevolveError

__all__ = ["CudaError", "api", "checked"]

#: Result codes after which the context is lost, and with it the process (CUDA driver API, enum CUresult):
#: illegal address, launch timeout, assert, hardware stack error, illegal instruction, misaligned address,
#: invalid address space, invalid program counter, launch failed.
_STICKY = frozenset({700, 702, 710, 714, 715, 716, 717, 718, 719})


class CudaError(KevolveError):
    """A call of the driver failed. ``code`` is the CUresult; ``sticky`` says that the context is lost."""

    def __init__(self, call: str, code: int, name: str) -> None:
        self.code = code
        super().__init__(f"the CUDA driver refused {call}", got=f"{name} ({code})")

    @property
    def sticky(self) -> bool:
        return self.code in _STICKY


def api() -> Any:
    """The module ``cuda.bindings.driver``. Raises `KevolveError` where it is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise KevolveError(
            "the Python package cuda-bindings is not installed",
            got=str(error),
            mend="pip install 'cuda-bindings>=12.9'",
        ) from error
    return driver


def checked(call: str, result: tuple[Any, ...]) -> Any:
    """What a driver function returned beside its code: nothing, one value or a tuple.

    Raises:
        CudaError: the code is none of success.
    """
    code, *values = result
    if int(code) != 0:
        raise CudaError(call, int(code), getattr(code, "name", str(code)))
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)
