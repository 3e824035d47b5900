"""Reductions and scans of a tile: identities, running values, and how they end."""

from __future__ import annotations

import math
from collections.abc import Callable

from attrs import frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Reduce
from kevolve_core.languages.triton.render.words import TRITON_TYPES, constant

__all__ = ["Combiner", "combiner_of"]

_LIMITS = {"int64": (-(1 << 63), (1 << 63) - 1), "int32": (-(1 << 31), (1 << 31) - 1),
           "int16": (-(1 << 15), (1 << 15) - 1), "int8": (-128, 127), "uint8": (0, 255)}  # fmt: skip

Helper = Callable[[str], str]


@frozen
class Combiner:
    """A combiner in one type.

    Args:
        dtype: IR dtype it runs in.
        identity: literal of its identity.
        join: text of two values combined.
        fold: text of a tile combined along an axis, from its source and the axis' arguments.
        scan: text of the running combination along an axis.
    """

    dtype: str
    identity: str
    join: Callable[[str, str], str]
    fold: Callable[[str, str], str]
    scan: Callable[[str, int], str]


def combiner_of(name: str, dtype: str, accumulate: str, helper: Helper) -> Combiner:
    """``name`` over values of ``accumulate`` (half precision is held in float32); ``dtype`` is the IR's
    result type."""
    kind = "float32" if accumulate in ("float16", "bfloat16") else accumulate
    real = kind.startswith("float")
    if name in ("sum", "prod"):
        if kind == "bool":
            kind = "int64" if dtype == "bool" else dtype
        if name == "sum":
            return Combiner(
                kind,
                constant(0, kind),
                lambda a, b: f"{a} + {b}",
                lambda x, at: f"tl.sum({x}, {at})",
                lambda x, axis: f"tl.cumsum({x}, {axis})",
            )
        return Combiner(
            kind,
            constant(1, kind),
            lambda a, b: f"{a} * {b}",
            lambda x, at: f"tl.reduce({x}, {_first(at)}, {helper('_product')}{_rest(at)})",
            lambda x, axis: f"tl.cumprod({x}, {axis})",
        )
    if name in ("any", "all"):
        word = "max" if name == "any" else "min"
        return Combiner(
            "int32",
            "0" if name == "any" else "1",
            lambda a, b: f"tl.{word}imum({a}, {b})",
            lambda x, at: f"tl.{word}({x}, {at})",
            lambda x, axis: f"tl.associative_scan({x}, {axis}, {helper(f'_{word}imum')})",
        )
    if name in ("max", "min"):
        if kind == "bool":
            kind = "int32"
        return Combiner(
            kind,
            extreme(name, kind),
            lambda a, b: f"{helper(f'_{name}imum')}({a}, {b})" if real else f"tl.{name}imum({a}, {b})",
            lambda x, at: (
                f"{helper(f'_{name}')}({x}, {_first(at)}, {_kept(at)})" if real else f"tl.{name}({x}, {at})"
            ),
            lambda x, axis: f"tl.associative_scan({x}, {axis}, {helper(f'_{name}imum')})",
        )
    raise UnsupportedError(f"Triton renderer has no combiner {name}")


def extreme(name: str, kind: str) -> str:
    """The value that every other one replaces."""
    if kind.startswith("float"):
        return constant(-math.inf if name == "max" else math.inf, kind)
    low, high = _LIMITS[kind]
    return str(low if name == "max" else high)


def _first(at: str) -> str:
    return at.partition(",")[0]


def _rest(at: str) -> str:
    _, comma, rest = at.partition(",")
    return comma + rest


def _kept(at: str) -> str:
    return "True" if "keep_dims" in at else "False"


def result_cast(s: Reduce, kind: str) -> str:
    """What turns a combined value of ``kind`` into the reduction's own dtype."""
    if s.dtype == "bool":
        return " != 0"
    wanted = "float32" if s.dtype in ("float16", "bfloat16") else s.dtype
    if s.dtype in ("float16", "bfloat16"):
        return f".to({TRITON_TYPES[s.dtype]}).to(tl.float32)"
    return "" if wanted == kind else f".to({TRITON_TYPES[wanted]})"
