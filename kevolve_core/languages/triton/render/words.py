"""Names and literals in generated Triton source."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Sequence
from typing import Any

__all__ = ["TRITON_TYPES", "Names", "constant", "identifier", "power_of_two", "triton_type"]

#: IR dtype -> Triton's name of it.
TRITON_TYPES = {
    "float64": "tl.float64", "float32": "tl.float32", "float16": "tl.float16", "bfloat16": "tl.bfloat16",
    "int64": "tl.int64", "int32": "tl.int32", "int16": "tl.int16", "int8": "tl.int8", "uint8": "tl.uint8",
    "bool": "tl.int1",
}  # fmt: skip

#: What no generated name may be: Python's own words and names that the files use.
_RESERVED = frozenset(
    [*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "tl", "torch", "triton", "row", "col", "start",
     "row_mask", "col_mask", "pid", "ROWS", "COLS", "device", "self", "run", "tensors", "weights", "key",
     "replayed"]
)  # fmt: skip


def triton_type(dtype: str) -> str:
    """Triton's name of the type that values of ``dtype`` are computed in: half precision in float32."""
    return TRITON_TYPES["float32" if dtype in {"float16", "bfloat16"} else dtype]


def identifier(name: str) -> str:
    """``name`` as a Python identifier."""
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name).strip("_") or "v"
    return f"n{clean}" if clean[0].isdigit() else clean


class Names:
    """Hands out identifiers, each once."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self._taken = set(_RESERVED) | set(taken)

    def fresh(self, wanted: str) -> str:
        stem = identifier(wanted)
        name, n = stem, 1
        while name in self._taken:
            n += 1
            name = f"{stem}_{n}"
        self._taken.add(name)
        return name


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n`` and 1."""
    return 1 << max(0, n - 1).bit_length()


def constant(value: Any, dtype: str) -> str:
    """Python text of a literal that Triton reads as ``dtype``'s kind."""
    if dtype == "bool":
        return repr(bool(value))
    if dtype.startswith(("int", "uint")):
        return repr(int(value))
    number = float(value)
    if number != number:
        return 'float("nan")'
    if number in (float("inf"), float("-inf")):
        return f'float("{number}")'
    return repr(number)
