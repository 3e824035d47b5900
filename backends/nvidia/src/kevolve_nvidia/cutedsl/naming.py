"""What tells one compilation of a CuTe DSL function from another.

A candidate compiles with ``cute.compile(function, *arguments)``. The worker that compiles ahead and the one
that launches both reach that line, with other objects: names made here are equal in both when function and
arguments are the same to the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kevolve_core.model import content_hash

__all__ = ["compile_key", "function_name"]

_DEPTH = 6  # of containers and closures; what is deeper tells nothing apart
_PLAIN = (bool, int, float, str, type(None))


def function_name(function: Any) -> str:
    """The name a user gave a function, a method's class, or an instance's class."""
    owner = getattr(function, "__self__", None)
    named = function if hasattr(function, "__qualname__") and owner is None else type(owner or function)
    return str(named.__qualname__).rpartition(".")[2]


def compile_key(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Any = None) -> str:
    """A content hash of what `cute.compile` is called with."""
    return content_hash(
        {
            "function": _described(function, 0),
            "args": [_described(a, 0) for a in args],
            "kwargs": {name: _described(a, 0) for name, a in sorted(kwargs.items())},
            "options": repr(options),
        }
    )


def _described(value: Any, depth: int) -> Any:
    described: Callable[[], Any] | None = getattr(type(value), "kevolve_description", None)
    if described is not None:
        return value.kevolve_description()
    if depth > _DEPTH:
        return type(value).__qualname__
    if isinstance(value, _PLAIN):
        return [type(value).__name__, repr(value)]
    if isinstance(value, (list, tuple)):
        return [_described(v, depth + 1) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _described(v, depth + 1) for k, v in value.items()}
    if isinstance(value, type):
        return value.__qualname__
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, type) and hasattr(value, "__func__"):
        return [value.__func__.__qualname__, _described(owner, depth + 1)]
    if hasattr(value, "__code__"):
        return [value.__qualname__, _closure(value, depth)]
    if hasattr(value, "__wrapped__"):
        return _described(value.__wrapped__, depth + 1)
    if type(value).__name__ in ("CUstream", "_FakeStream"):
        return "stream"
    if hasattr(value, "element_type") or hasattr(value, "dtype"):
        return _tensor(value)
    return [type(value).__qualname__, _described(_attributes(value), depth + 1)]


def _closure(function: Any, depth: int) -> list[Any]:
    """Values that a function made by another one took with it."""
    inner = getattr(function, "__wrapped__", None)
    cells = [*(function.__closure__ or ()), *((inner.__closure__ or ()) if inner is not None else ())]
    return [
        _described(cell.cell_contents, depth + 1)
        for cell in cells
        if isinstance(cell.cell_contents, (*_PLAIN, list, tuple, dict, type)) or callable(cell.cell_contents)
    ]


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes of an instance that a program sets itself; what the DSL keeps in it is left out."""
    return {
        name: kept
        for name, kept in getattr(value, "__dict__", {}).items()
        if isinstance(kept, (*_PLAIN, list, tuple, dict, type)) or hasattr(kept, "__code__")
    }


def _tensor(value: Any) -> list[Any]:
    """A fake tensor or a pointer: what its type says."""
    parts = [getattr(value, name, None) for name in ("element_type", "dtype", "shape", "stride", "memspace")]
    align = getattr(value, "_assumed_align", None)
    return [type(value).__qualname__, *(str(p) for p in parts if p is not None), str(align)]
