"""Reductions rewritten before fusion, so that each fits a nest of independent rows.

A reduction whose operand depends on row statistics (a loss over a softmax) is taken in two steps: a part a
row, which fuses with the statistics, and the reduction of the parts. A reduction to few results of many
elements is taken in two steps as well, so that its first has tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import evolve

from kevolve_core.ir import Const, Expr, Index, Load, Op
from kevolve_core.synth.fuse import Fusion
from kevolve_core.synth.index import integer, linear
from kevolve_core.synth.lower import Def, Lowering
from kevolve_core.synth.lower.core import cast

__all__ = ["split_large", "split_rows"]

#: Reductions of at least this many elements to fewer than `FEW` results are split. Estimated: the cost of a
#: second nest against that of a serial pass.
LARGE = 1 << 16
FEW = 64
PARTS = 1024  # most partial results of one split, estimated

_SPLITTABLE = frozenset(["sum", "prod", "max", "min", "any", "all"])


def split_rows(lowering: Lowering, fusion: Fusion) -> bool:
    """Split one reduction that reads row statistics at axes it reduces; False when there is none left."""
    for name, accesses in fusion.accesses.items():
        d = lowering.defs[name]
        if d.kind != "reduce" or d.combiner not in _SPLITTABLE or _reads_parts(lowering, d):
            continue
        free, consumed = fusion.axes.of(d), fusion.axes.reduced(d)
        rows: set[frozenset[str]] = set()
        for access in accesses:
            producer = lowering.defs[access.name]
            if producer.kind in {"reduce", "scan"}:
                rows.add(_position(access.index))
        rows.discard(frozenset())
        if len(rows) != 1:
            continue
        at = next(iter(rows))
        kept = [a for a in consumed if a in at]
        if kept and set(at) == {*free, *kept}:
            _split(lowering, fusion, d, kept, "rows")
            return True
    return False


def _reads_parts(lowering: Lowering, d: Def) -> bool:
    """Whether ``d`` reduces another reduction's results as they are."""
    return isinstance(d.value, Load) and lowering.defs[d.value.buffer].kind in {"reduce", "scan"}


def _position(index: Sequence[Expr]) -> frozenset[str]:
    """Axes that ``index`` is made of; an impossible name where it is not affine in them."""
    axes: set[str] = set()
    for e in index:
        for atom in linear(e)[1]:
            axes.add(atom.axis if isinstance(atom, Index) else "?")
    return frozenset(axes)


def split_large(lowering: Lowering, fusion: Fusion) -> bool:
    """Split one reduction of many elements to few results; False when there is none left."""
    extents = lowering.ix.extents
    for name in fusion.accesses:
        d = lowering.defs[name]
        if d.kind != "reduce" or d.combiner not in _SPLITTABLE or d.name.endswith("_parts"):
            continue
        free, consumed = fusion.axes.of(d), fusion.axes.reduced(d)
        if math.prod(extents[a] for a in free) >= FEW or math.prod(extents[a] for a in consumed) < LARGE:
            continue
        if (kept := _leading(fusion, consumed)) is not None:
            _split(lowering, fusion, d, kept, "parts")
            return True
        if len(consumed) == 1:
            _split_ragged(lowering, fusion, d, consumed[0])
            return True
    return False


def _leading(fusion: Fusion, consumed: Sequence[str]) -> list[str] | None:
    """The slowest of ``consumed``, split if need be, with 16 to `PARTS` points; or None."""
    extents = fusion.ix.extents
    best: tuple[int, int, int] | None = None
    base = 1
    for i, axis in enumerate(consumed):
        for d in range(1, min(extents[axis], PARTS // base) + 1):
            if extents[axis] % d == 0 and base * d >= 16 and (best is None or base * d > best[0]):
                best = (base * d, i, d)
        base *= extents[axis]
        if base > PARTS:
            break
    if best is None:
        return None
    _, i, d = best
    kept = list(consumed[:i])
    if d == extents[consumed[i]]:
        kept.append(consumed[i])
    elif d > 1:
        fusion.axes.split(consumed[i], extents[consumed[i]] // d)
        kept.append(fusion.axes.pieces(consumed[i])[0])
    return kept


def _fresh(lowering: Lowering, axes: Sequence[str]) -> dict[str, Expr]:
    return {a: lowering.ix.axis(lowering.ix.extents[a]) for a in axes}


def _insert(lowering: Lowering, before: str, new: Sequence[Def], changed: Def) -> None:
    """Put ``new`` definitions in front of ``before``, which becomes ``changed``."""
    out: dict[str, Def] = {}
    for name, d in lowering.defs.items():
        if name == before:
            out.update({n.name: n for n in new})
            d = changed
        out[name] = d
    lowering.defs.clear()
    lowering.defs.update(out)


def _split(lowering: Lowering, fusion: Fusion, d: Def, kept: Sequence[str], suffix: str) -> None:
    """``d`` over all its axes becomes a part over those not in ``kept``, then ``d`` over ``kept``."""
    ix = lowering.ix
    by = fusion.axes.substitution(d)
    free, consumed = fusion.axes.of(d), fusion.axes.reduced(d)
    fresh = _fresh(lowering, (*free, *consumed))
    assert d.value is not None
    value = ix.substitute(ix.substitute(d.value, by), fresh)
    own = tuple(fresh[a] for a in (*free, *kept))
    shape = tuple(ix.extents[a] for a in (*free, *kept))
    inner = tuple(_axis(fresh[a]) for a in consumed if a not in kept)
    kind = "reduce" if inner else "point"
    result = d.accumulate
    part = Def(
        f"{d.name}_{suffix}", shape, result, kind, own, value if inner else cast(value, result), inner,
        d.combiner if inner else "", d.accumulate if inner else "", node=d.node, label=d.label,
    )  # fmt: skip
    again = _fresh(lowering, kept)
    index = (*(Index(a) for a in free), *(again[a] for a in kept))
    axes = tuple(ix.substitute(a, by) for a in d.axes)
    changed = evolve(
        d,
        axes=axes,
        value=Load(part.name, tuple(index), result),
        raxes=tuple(_axis(e) for e in again.values()),
    )
    _insert(lowering, d.name, [part], _simple(lowering, changed))
    if kind == "point":
        fusion.required.add(part.name)


def _simple(lowering: Lowering, d: Def) -> Def:
    """``d`` with one axis a dimension again, where splitting left sums in its own index."""
    axes: list[Expr] = []
    by: dict[str, Expr] = {}
    for own, n in zip(d.axes, d.shape, strict=True):
        if isinstance(own, Index) or n == 1:
            axes.append(own)
            continue
        axis = lowering.ix.axis(n)
        axes.append(axis)
        _, terms = linear(own)
        for atom, c in terms.items():
            assert isinstance(atom, Index)
            by[atom.axis] = lowering.ix.remainder(
                lowering.ix.floordiv(axis, c), lowering.ix.extents[atom.axis]
            )
    if not by:
        return d
    assert d.value is not None
    return evolve(d, axes=tuple(axes), value=lowering.ix.substitute(d.value, by))


def _axis(e: Expr) -> str:
    assert isinstance(e, Index)
    return e.axis


def _split_ragged(lowering: Lowering, fusion: Fusion, d: Def, axis: str) -> None:
    """As `_split`, where no divisor gives parts: the last part is short, and masked."""
    ix = lowering.ix
    n = ix.extents[axis]
    length = -(-n // (PARTS // 4))
    parts = -(-n // length)
    by = fusion.axes.substitution(d)
    free = fusion.axes.of(d)
    assert d.value is not None
    fresh = _fresh(lowering, (*free, axis))
    element = Def(
        f"{d.name}_element", tuple(ix.extents[a] for a in (*free, axis)), d.value.dtype, "point",
        tuple(fresh.values()), ix.substitute(ix.substitute(d.value, by), fresh), node=d.node, label=d.label,
    )  # fmt: skip
    rows, part, inner = _fresh(lowering, free), ix.axis(parts), ix.axis(length)
    at = ix.add(ix.scale(part, length), inner)
    load = Load(
        element.name, (*rows.values(), at), element.dtype, Op("lt", (at, integer(n)), "bool"),
        _identity(d.combiner, element.dtype),
    )  # fmt: skip
    piece = Def(
        f"{d.name}_parts", (*(ix.extents[a] for a in free), parts), d.accumulate, "reduce",
        (*rows.values(), part), load, (inner.axis,), d.combiner, d.accumulate, node=d.node, label=d.label,
    )  # fmt: skip
    over = ix.axis(parts)
    changed = evolve(
        d,
        axes=tuple(ix.substitute(a, by) for a in d.axes),
        value=Load(piece.name, (*(Index(a) for a in free), over), d.accumulate),
        raxes=(over.axis,),
    )
    _insert(lowering, d.name, [element, piece], _simple(lowering, changed))


def _identity(combiner: str, dtype: str) -> Const:
    import torch

    if dtype == "bool":
        return Const(combiner == "all", dtype)
    kind = getattr(torch, dtype)
    if combiner in {"max", "min"}:
        if kind.is_floating_point:
            return Const(-math.inf if combiner == "max" else math.inf, dtype)
        limits = torch.iinfo(kind)
        return Const(limits.min if combiner == "max" else limits.max, dtype)
    return cast_const(1 if combiner == "prod" else 0, dtype)


def cast_const(value: int, dtype: str) -> Const:
    e = cast(Const(value, "int64"), dtype)
    assert isinstance(e, Const)
    return e
