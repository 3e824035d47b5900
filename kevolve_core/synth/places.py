"""Elements of buffers by their place in memory, and the loops of a nest at which it meets them."""

from __future__ import annotations

from collections.abc import Mapping

from kevolve_core.ir import Buffer, Const, Expr, Let, Load, LoopNest, Op, Store, address
from kevolve_core.synth.index import ZERO, Indexer, delinearised, integer, linear
from kevolve_core.synth.statements import map_linear

__all__ = ["element", "joined", "placed", "substituted"]


def placed(
    access: Load | Store, nest: LoopNest, buffer: Buffer, flat: Expr, ix: Indexer
) -> dict[str, Expr] | None:
    """The loops of ``nest`` at which ``access`` is element ``flat`` of contiguous ``buffer``, each of whose
    elements it meets once; None where it does not."""
    form = address(access, buffer)
    if form is None or form[0] or not _contiguous(buffer):
        return None
    by: dict[str, Expr] = {a.name: ZERO for a in nest.axes if a.extent == 1}
    step = 1
    for axis, coefficient in sorted(form[1].items(), key=lambda t: t[1]):
        if axis in by:
            continue
        if coefficient != step:
            return None
        above, _ = _divided(ix, flat, step) if step > 1 else (flat, flat)
        by[axis] = _divided(ix, above, nest.extent(axis))[1]
        step *= nest.extent(axis)
    return by if step == buffer.size and len(by) == len(nest.axes) else None


def _divided(ix: Indexer, e: Expr, k: int) -> tuple[Expr, Expr]:
    """``e // k`` and ``e % k``. What stays below a common step of the rest is taken out first: where
    ``m < 5``, ``(5 b + m) % 20`` is ``5 (b % 4) + m``."""
    constant, terms = linear(e)
    for step in sorted({c for c in terms.values() if c > 1 and k % c == 0}):
        below = delinearised((constant, {a: c for a, c in terms.items() if c % step}))
        low, high = ix.bounds(below)
        if low >= 0 and high < step:
            above = delinearised((0, {a: c // step for a, c in terms.items() if c % step == 0}))
            quotient, rest = _divided(ix, above, k // step)
            return quotient, ix.add(ix.scale(rest, step), below)
    return ix.floordiv(e, k), ix.remainder(e, k)


def joined(e: Expr) -> Expr:
    """A sum with ``x // k`` and ``x % k`` put together where they make up ``x``."""
    constant, terms = linear(e)
    for atom, c in terms.items():
        if not (isinstance(atom, Op) and atom.name == "floordiv" and isinstance(atom.args[1], Const)):
            continue
        rest = Op("remainder", atom.args, "int64")
        k = int(atom.args[1].value)
        if rest in terms and terms[rest] * k == c:
            kept = {a: n for a, n in terms.items() if a not in (atom, rest)}
            whole = Op("mul", (atom.args[0], integer(terms[rest])), "int64")
            return joined(Op("add", (delinearised((constant, kept)), whole), "int64"))
    return delinearised((constant, terms))


def substituted(ix: Indexer, e: Expr, by: Mapping[str, Expr]) -> Expr:
    """``e`` with loops replaced."""
    moved = map_linear(Let("value", ix.substitute(e, by)), joined)
    assert isinstance(moved, Let)
    return moved.value


def _contiguous(b: Buffer) -> bool:
    return b.strides is None or b.strides == Buffer("", b.shape, b.dtype, b.role).stride


def element(b: Buffer, flat: Expr, ix: Indexer) -> Load | None:
    """The element of ``b`` that lies ``flat`` elements from its first; None where strides overlap."""
    if _contiguous(b):
        return Load(b.name, (*(ZERO for _ in b.shape[1:]), flat), b.dtype) if b.shape else None
    index: list[Expr] = [ZERO] * len(b.shape)
    rest = flat
    dims = sorted((d for d, n in enumerate(b.shape) if n > 1 and b.stride[d]), key=lambda d: -b.stride[d])
    for k, d in enumerate(dims):
        below = sum((b.shape[i] - 1) * b.stride[i] for i in dims[k + 1 :])
        if b.stride[d] <= below:
            return None
        index[d] = ix.floordiv(rest, b.stride[d])
        rest = ix.sub(rest, ix.scale(index[d], b.stride[d]))
    return Load(b.name, tuple(index), b.dtype)
