"""Affine forms of index expressions: what a renderer asks to find unit strides, and to hoist addresses."""

from __future__ import annotations

from kevolve_core.ir.expr import Const, Expr, Index, Load, Op
from kevolve_core.ir.program import Buffer, Store

__all__ = ["Affine", "address", "affine"]

#: (constant, coefficient by axis), both in elements.
Affine = tuple[int, dict[str, int]]


def affine(e: Expr) -> Affine | None:
    """``e`` as a constant plus integer multiples of loop indices, or None where it is not of that form (it
    mentions a load, a `Var`, a division …). Zero coefficients are left out."""
    if isinstance(e, Const):
        return (int(e.value), {}) if isinstance(e.value, (int, bool)) else None
    if isinstance(e, Index):
        return 0, {e.axis: 1}
    if not isinstance(e, Op) or e.name not in {"add", "sub", "mul", "neg"}:
        return None
    parts = [affine(a) for a in e.args]
    left = parts[0]
    right = parts[-1]
    if left is None or right is None:
        return None
    if e.name == "neg":
        return _scaled(left, -1)
    if e.name == "mul":
        if right[1] and left[1]:
            return None
        return _scaled(left, right[0]) if left[1] else _scaled(right, left[0])
    return _sum(left, right if e.name == "add" else _scaled(right, -1))


def address(access: Load | Store, buffer: Buffer) -> Affine | None:
    """The element offset of ``access`` in ``buffer`` (its strides applied) in affine form, or None."""
    total: Affine = (0, {})
    for index, stride in zip(access.index, buffer.stride, strict=True):
        term = affine(index)
        if term is None:
            return None
        total = _sum(total, _scaled(term, stride))
    return total


def _scaled(a: Affine, by: int) -> Affine:
    return a[0] * by, {axis: c * by for axis, c in a[1].items() if c * by}


def _sum(a: Affine, b: Affine) -> Affine:
    terms = dict(a[1])
    for axis, c in b[1].items():
        terms[axis] = terms.get(axis, 0) + c
    return a[0] + b[0], {axis: c for axis, c in terms.items() if c}
