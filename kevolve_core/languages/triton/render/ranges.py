"""What integer expressions over loop indices can be: which of them fit 32 bits."""

from __future__ import annotations

from collections.abc import Mapping

from kevolve_core.ir import Const, Expr, Index, Op, Var

__all__ = ["INT32", "bounds", "fits"]

INT32 = (-(1 << 31), (1 << 31) - 1)

Bounds = tuple[int, int] | None


def fits(found: Bounds) -> bool:
    """Whether both ends are known and within 32 bits."""
    return found is not None and found[0] >= INT32[0] and found[1] <= INT32[1]


def bounds(e: Expr, extents: Mapping[str, int], lets: Mapping[str, Expr]) -> Bounds:
    """Smallest and largest value of an integer expression, or None where it reads memory."""
    if isinstance(e, Const):
        return (int(e.value), int(e.value)) if isinstance(e.value, int) else None
    if isinstance(e, Index):
        return 0, max(0, extents[e.axis] - 1)
    if isinstance(e, Var):
        return bounds(lets[e.name], extents, lets) if e.name in lets else None
    if not isinstance(e, Op) or not e.dtype.startswith("int"):
        return None
    parts = [bounds(a, extents, lets) for a in e.args[-2:]]
    if any(p is None for p in parts):
        return None
    known = [p for p in parts if p is not None]
    (a, b), (c, d) = known[0], known[-1]
    if e.name == "cast":
        return (a, b) if e.args[0].dtype.startswith("int") else None
    if e.name == "where":
        return min(a, c), max(b, d)
    return _combined(e.name, (a, b), (c, d))


def _combined(name: str, left: tuple[int, int], right: tuple[int, int]) -> Bounds:
    (a, b), (c, d) = left, right
    if name == "add":
        return a + c, b + d
    if name == "sub":
        return a - d, b - c
    if name == "neg":
        return -b, -a
    if name == "mul":
        ends = (a * c, a * d, b * c, b * d)
        return min(ends), max(ends)
    if name == "min":
        return min(a, c), min(b, d)
    if name == "max":
        return max(a, c), max(b, d)
    if name == "abs":
        return (0 if a <= 0 <= b else min(abs(a), abs(b))), max(abs(a), abs(b))
    if name == "floordiv" and c == d > 0:
        return a // c, b // c
    if name == "remainder" and c == d > 0:
        return 0, c - 1
    return None
