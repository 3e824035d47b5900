"""How the IR's dtypes look in the generated C++: storage, computation and limits.

A *kind* is what a value is computed in: float16 and bfloat16 are stored as such and computed in float32, and
rounded to nearest even where they are stored or cast.
"""

from __future__ import annotations

import math

__all__ = ["BITS", "FLOATS", "HALF", "KIND", "SCALAR", "STORAGE", "literal", "lowest", "highest"]

#: dtype -> kind of the values computed from it
KIND = {
    "float64": "f64", "float32": "f32", "float16": "f32", "bfloat16": "f32", "int64": "i64", "int32": "i32",
    "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "b1",
}  # fmt: skip

#: kind -> C++ scalar type
SCALAR = {
    "f64": "double", "f32": "float", "i64": "long", "i32": "int", "i16": "short", "i8": "signed char",
    "u8": "unsigned char", "b1": "bool", "u16": "unsigned short", "f16": "_Float16",
}  # fmt: skip

#: dtype -> C++ type of an element in memory (bool is a byte holding 0 or 1, bfloat16 its 16 bits)
STORAGE = {
    "float64": "double", "float32": "float", "float16": "_Float16", "bfloat16": "unsigned short",
    "int64": "long", "int32": "int", "int16": "short", "int8": "signed char", "uint8": "unsigned char",
    "bool": "unsigned char",
}  # fmt: skip

#: What a source that has float16 begins with.
HALF = """// GCC before 13 has no _Float16 in C++ on Arm, but the same under another name.
#if defined(__aarch64__) && !defined(__clang__) && __GNUC__ < 13
#define _Float16 __fp16
#endif"""

BITS = {"f64": 64, "f32": 32, "i64": 64, "i32": 32, "i16": 16, "i8": 8, "u8": 8, "u16": 16, "f16": 16}

FLOATS = ("f32", "f64")

_INTEGER_BITS = {"i64": 63, "i32": 31, "i16": 15, "i8": 7}


def literal(value: float | int | bool, kind: str) -> str:
    """C++ text of a constant of ``kind``."""
    if kind == "b1":
        return "true" if value else "false"
    if kind in FLOATS:
        x = float(value)
        suffix = "f" if kind == "f32" else ""
        if math.isnan(x):
            return f'__builtin_nan{suffix}("")'
        if math.isinf(x):
            return f"{'-' if x < 0 else ''}__builtin_inf{suffix}()"
        if kind == "f32" and abs(x) > 3.4028235677973366e38:  # rounds to infinity in float32
            return f"{'-' if x < 0 else ''}__builtin_inff()"
        if math.copysign(1.0, x) < 0:
            return f"({x!r}{suffix})"
        return f"{x!r}{suffix}"
    n = int(value)
    if kind == "i64":
        return "(-0x7fffffffffffffffL - 1)" if n == -(2**63) else (f"({n}L)" if n < 0 else f"{n}L")
    if kind == "i32":
        return "(-0x7fffffff - 1)" if n == -(2**31) else (f"({n})" if n < 0 else str(n))
    return f"{SCALAR[kind]}({n})" if " " not in SCALAR[kind] else f"({SCALAR[kind]})({n})"


def lowest(kind: str) -> str:
    """The identity of ``max``."""
    if kind in FLOATS:
        return literal(-math.inf, kind)
    if kind in ("u8", "b1"):
        return literal(0, kind)
    return literal(-(2 ** _INTEGER_BITS[kind]), kind)


def highest(kind: str) -> str:
    """The identity of ``min``."""
    if kind in FLOATS:
        return literal(math.inf, kind)
    if kind == "b1":
        return "true"
    return literal(255 if kind == "u8" else 2 ** _INTEGER_BITS[kind] - 1, kind)
