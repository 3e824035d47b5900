"""Views and rearrangements: index maps, masks where there are holes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from kevolve_core.ir import Const, Expr, Load, Op
from kevolve_core.synth.index import ZERO, integer
from kevolve_core.synth.lower.core import Join, Lowering, Number, Part, Value, cast, dims_of, lowers
from kevolve_core.synth.lower.pointwise import where

__all__ = ["reshaped"]


def reshaped(lowering: Lowering, x: Value, shape: Sequence[int]) -> Value:
    """``x`` with its elements in the same order in another shape."""
    if math.prod(x.shape) == 0:
        return lowering.view(x, shape, lambda _: [ZERO] * len(x.shape))
    known = math.prod(n for n in shape if n != -1)
    full = tuple(math.prod(x.shape) // known if n == -1 else n for n in shape)
    ix = lowering.ix
    return lowering.view(x, full, lambda i: ix.unravel(ix.ravel(i, full), x.shape))


@lowers(
    "view.default", "reshape.default", "_unsafe_view.default", "view_copy.default", "_reshape_copy.default"
)
def _view(lowering: Lowering, x: Value, shape: Sequence[int]) -> Value:
    return reshaped(lowering, x, shape)


@lowers("clone.default", "alias.default", "detach.default", "contiguous.default", "lift_fresh_copy.default",
        "alias_copy.default", "expand_as.default")  # fmt: skip
def _same(lowering: Lowering, x: Value, *_: Any, **__: Any) -> Value:
    del lowering
    return x


@lowers("permute.default", "permute_copy.default")
def _permute(lowering: Lowering, x: Value, dims: Sequence[int]) -> Value:
    order = dims_of(dims, len(x.shape)) if dims else ()
    back = [order.index(d) for d in range(len(order))]
    return lowering.view(x, [x.shape[d] for d in order], lambda i: [i[p] for p in back])


@lowers("t.default", "transpose.int", "numpy_T.default", "mT.default")
def _transpose(lowering: Lowering, x: Value, a: int = 0, b: int = 1) -> Value:
    order = list(range(len(x.shape)))
    if order:
        a, b = a % len(order), b % len(order)
        if max(a, b) < len(order):
            order[a], order[b] = order[b], order[a]
    return _permute(lowering, x, order)


@lowers("unsqueeze.default", "unsqueeze_copy.default")
def _unsqueeze(lowering: Lowering, x: Value, dim: int) -> Value:
    d = dim % (len(x.shape) + 1)
    return lowering.view(x, (*x.shape[:d], 1, *x.shape[d:]), lambda i: (*i[:d], *i[d + 1 :]))


@lowers("squeeze.default", "squeeze.dim", "squeeze.dims", "squeeze_copy.default")
def _squeeze(lowering: Lowering, x: Value, dims: Any = None) -> Value:
    drop = {d for d in dims_of(dims, len(x.shape)) if x.shape and x.shape[d] == 1}
    keep = [d for d in range(len(x.shape)) if d not in drop]

    def index(i: tuple[Expr, ...]) -> list[Expr]:
        full: list[Expr] = [ZERO] * len(x.shape)
        for e, d in zip(i, keep, strict=True):
            full[d] = e
        return full

    return lowering.view(x, [x.shape[d] for d in keep], index)


@lowers("expand.default", "broadcast_to.default", "expand_copy.default")
def _expand(lowering: Lowering, x: Value, shape: Sequence[int], **_: Any) -> Value:
    lead = len(shape) - len(x.shape)
    full = tuple(x.shape[d - lead] if n == -1 else n for d, n in enumerate(shape))
    return lowering.view(
        x, full, lambda i: [ZERO if n == 1 else e for e, n in zip(i[lead:], x.shape, strict=True)]
    )


def _clipped(position: int | None, n: int, default: int) -> int:
    if position is None:
        return default
    return max(0, min(n, position + n if position < 0 else position))


@lowers("slice.Tensor", "slice_copy.Tensor")
def _slice(
    lowering: Lowering,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    d = dim % len(x.shape)
    n = x.shape[d]
    a, b = _clipped(start, n, 0), _clipped(end, n, n)
    shape = list(x.shape)
    shape[d] = max(0, -(-(b - a) // step))
    ix = lowering.ix
    return lowering.view(x, shape, lambda i: (*i[:d], ix.add(ix.scale(i[d], step), integer(a)), *i[d + 1 :]))


@lowers("select.int", "select_copy.int")
def _select(lowering: Lowering, x: Value, dim: int, index: int) -> Value:
    d = dim % len(x.shape)
    at = integer(index % x.shape[d])
    return lowering.view(x, (*x.shape[:d], *x.shape[d + 1 :]), lambda i: (*i[:d], at, *i[d:]))


@lowers("split.Tensor", "split_with_sizes.default", "chunk.default", "split_with_sizes_copy.default")
def _split(lowering: Lowering, x: Value, sizes: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    d = dim % len(x.shape)
    n = x.shape[d]
    if isinstance(sizes, int):
        if lowering.node is not None and ".chunk" in lowering.node.op:
            sizes = -(-n // sizes)
        sizes = [min(sizes, n - a) for a in range(0, n, sizes)] if sizes else [0]
    out, start = [], 0
    for size in sizes:
        out.append(_slice(lowering, x, d, start, start + size))
        start += size
    return tuple(out)


@lowers("unbind.int")
def _unbind(lowering: Lowering, x: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(_select(lowering, x, dim, k) for k in range(x.shape[dim % len(x.shape)]))


@lowers("flip.default")
def _flip(lowering: Lowering, x: Value, dims: Sequence[int]) -> Value:
    over = set(dims_of(dims, len(x.shape))) if dims else set()
    ix = lowering.ix
    return lowering.view(
        x,
        x.shape,
        lambda i: [ix.sub(integer(x.shape[d] - 1), e) if d in over else e for d, e in enumerate(i)],
    )


@lowers("roll.default")
def _roll(lowering: Lowering, x: Value, shifts: Any, dims: Any = ()) -> Value:
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    if not dims:
        flat = reshaped(lowering, x, (math.prod(x.shape),))
        return reshaped(lowering, _roll(lowering, flat, shifts, (0,)), x.shape)
    by = {d % len(x.shape): s for d, s in zip(dims, shifts, strict=True)}
    ix = lowering.ix
    return lowering.view(
        x, x.shape,
        lambda i: [ix.remainder(ix.add(e, integer(-by[d] % x.shape[d])), x.shape[d]) if d in by else e
                   for d, e in enumerate(i)],
    )  # fmt: skip


@lowers("unfold.default", "unfold_copy.default")
def _unfold(lowering: Lowering, x: Value, dim: int, size: int, step: int) -> Value:
    if not x.shape:
        return lowering.view(x, (size,), lambda _: ())
    d = dim % len(x.shape)
    shape = (*x.shape[:d], (x.shape[d] - size) // step + 1, *x.shape[d + 1 :], size)
    ix = lowering.ix
    return lowering.view(
        x, shape, lambda i: (*i[:d], ix.add(ix.scale(i[d], step), i[-1]), *i[d + 1 : len(x.shape)])
    )


@lowers("copy.default")
def _copy(lowering: Lowering, x: Value, source: Value, *_: Any) -> Value:
    return lowering.point(x.shape, x.dtype, lambda i: cast(source.broadcast(i), x.dtype))


@lowers("diagonal.default", "diagonal_copy.default")
def _diagonal(lowering: Lowering, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    r, c = dim1 % len(x.shape), dim2 % len(x.shape)
    down, right = max(0, -offset), max(0, offset)
    n = max(0, min(x.shape[r] - down, x.shape[c] - right))
    rest = [d for d in range(len(x.shape)) if d not in (r, c)]
    ix = lowering.ix

    def index(i: tuple[Expr, ...]) -> list[Expr]:
        full: list[Expr] = [ZERO] * len(x.shape)
        for e, d in zip(i, rest, strict=False):
            full[d] = e
        full[r], full[c] = ix.add(i[-1], integer(down)), ix.add(i[-1], integer(right))
        return full

    return lowering.view(x, (*(x.shape[d] for d in rest), n), index)


@lowers("repeat.default", "tile.default")
def _repeat(lowering: Lowering, x: Value, times: Sequence[int]) -> Value:
    lead = len(times) - len(x.shape)
    own = (*([1] * lead), *x.shape)
    ix = lowering.ix
    shape = [n * t for n, t in zip(own, times, strict=True)]
    return lowering.view(
        x,
        shape,
        lambda i: [ix.remainder(e, n) if n > 1 else ZERO for e, n in zip(i[lead:], x.shape, strict=True)],
    )


# --- holes: masked loads --------------------------------------------------------------------------------


def masked(x: Value, index: Sequence[Expr], mask: Expr, other: Expr) -> Expr:
    """The element of ``x`` at ``index`` where ``mask`` holds, else ``other``; nothing is read outside."""
    if isinstance(mask, Const):
        return x.at(index) if mask.value else other
    e = x.at(index)
    if isinstance(e, Load):
        inner = mask if e.mask is None else Op("logical_and", (mask, e.mask), "bool")
        if e.mask is None:
            return Load(e.buffer, e.index, e.dtype, mask, cast(other, e.dtype))
        return where(mask, Load(e.buffer, e.index, e.dtype, inner, e.other), other)
    return where(mask, e, other)


def conjunction(terms: Sequence[Expr]) -> Expr:
    """All of ``terms``, literals folded."""
    out: Expr = Const(True, "bool")
    for t in terms:
        if isinstance(t, Const):
            if not t.value:
                return t
            continue
        out = t if isinstance(out, Const) else Op("logical_and", (out, t), "bool")
    return out


def padded(
    lowering: Lowering, x: Value, before: Sequence[int], shape: Sequence[int], fill: Number, suffix: str = ""
) -> Value:
    """``x`` placed at ``before`` in a ``shape`` full of ``fill``."""
    ix = lowering.ix
    source = x if x.definition else lowering.materialised(x, "source")
    other = cast(Const(fill, "float64" if isinstance(fill, float) else "int64"), x.dtype)

    def make(i: tuple[Expr, ...]) -> Expr:
        at = [ix.sub(e, integer(b)) for e, b in zip(i, before, strict=True)]
        tests = [
            t
            for e, n in zip(at, x.shape, strict=True)
            for t in (ix.compare("ge", e, 0), ix.compare("lt", e, n))
        ]
        return masked(source, at, conjunction(tests), other)

    return lowering.point(shape, x.dtype, make, suffix)


@lowers("constant_pad_nd.default")
def _pad(lowering: Lowering, x: Value, pad: Sequence[int], value: Number = 0) -> Value:
    before, shape = [0] * len(x.shape), list(x.shape)
    for k in range(len(pad) // 2):
        d = len(x.shape) - 1 - k
        before[d], shape[d] = pad[2 * k], shape[d] + pad[2 * k] + pad[2 * k + 1]
    return padded(lowering, x, before, shape, value)


@lowers("cat.default")
def _cat(lowering: Lowering, tensors: Sequence[Value], dim: int = 0) -> Value:
    _, dtype = lowering.promoted(*tensors, kind="NO_OPMATH")
    parts = [t for t in tensors if t.shape != (0,)]
    d = dim % len(parts[0].shape)
    total = sum(t.shape[d] for t in parts)
    shape = (*parts[0].shape[:d], total, *parts[0].shape[d + 1 :])
    ix = lowering.ix
    sources = [t if t.definition else lowering.materialised(t, f"part{k}") for k, t in enumerate(parts)]
    for t in parts:  # appended to: inlined it would be taken apart again
        if t.definition and lowering.defs[t.definition].label == "cat":
            lowering.stored.add(t.definition)

    ends = list(itertools.accumulate(t.shape[d] for t in parts))
    pieces = [(t, end) for t, end in zip(sources, ends, strict=True) if t.shape[d]]

    def make(i: tuple[Expr, ...]) -> Expr:
        if not pieces:
            raise lowering.unsupported("concatenation of empty tensors only")

        def among(low: int, high: int) -> Expr:
            """The element, which lies in one of ``pieces[low:high]``: halved, so that many nest few deep."""
            if high - low > 1:
                middle = (low + high) // 2
                first = ix.compare("lt", i[d], pieces[middle - 1][1])
                return where(first, among(low, middle), among(middle, high))
            t, end = pieces[low]
            at = (*i[:d], ix.sub(i[d], integer(end - t.shape[d])), *i[d + 1 :])
            inside = conjunction([ix.compare("ge", at[d], 0), ix.compare("lt", at[d], t.shape[d])])
            return cast(masked(t, at, inside, cast(integer(0), t.dtype)), dtype)

        return among(0, len(pieces))

    whole = lowering.point(shape, dtype, make)
    joined = tuple(Part(t.definition, end - t.shape[d], t.shape[d]) for t, end in pieces)
    lowering.joins[whole.definition] = Join(d, joined)
    return whole


@lowers("stack.default")
def _stack(lowering: Lowering, tensors: Sequence[Value], dim: int = 0) -> Value:
    return _cat(lowering, [_unsqueeze(lowering, t, dim) for t in tensors], dim % (len(tensors[0].shape) + 1))


@lowers("select_scatter.default")
def _select_scatter(lowering: Lowering, x: Value, src: Value, dim: int, index: int) -> Value:
    d = dim % len(x.shape)
    at = index % x.shape[d]
    return _slice_scatter(lowering, x, _unsqueeze(lowering, src, d), d, at, at + 1)


@lowers("slice_scatter.default")
def _slice_scatter(
    lowering: Lowering,
    x: Value,
    src: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    del end  # the source's own extent says it
    d = dim % len(x.shape)
    n = x.shape[d]
    a = _clipped(start, n, 0)
    ix = lowering.ix
    source = src if src.definition else lowering.materialised(src, "source")

    def make(i: tuple[Expr, ...]) -> Expr:
        moved = ix.sub(i[d], integer(a))
        at = ix.floordiv(moved, step)
        tests = [ix.compare("ge", moved, 0), ix.compare("lt", at, src.shape[d])]
        if step > 1:
            tests.append(Op("eq", (ix.remainder(moved, step), ZERO), "bool"))
        inside = conjunction(tests)
        piece = masked(source, (*i[:d], at, *i[d + 1 :]), inside, cast(integer(0), src.dtype))
        if isinstance(inside, Const):
            return cast(piece, x.dtype) if inside.value else x.at(i)
        return where(inside, cast(piece, x.dtype), x.at(i))

    return lowering.point(x.shape, x.dtype, make)


@lowers("tril.default", "triu.default")
def _triangle(lowering: Lowering, x: Value, diagonal: int = 0) -> Value:
    name = "le" if lowering.node is not None and "tril" in lowering.node.op else "ge"
    ix = lowering.ix

    def make(i: tuple[Expr, ...]) -> Expr:
        keep = Op(name, (ix.sub(i[-1], i[-2]), integer(diagonal)), "bool")
        return where(keep, x.at(i), cast(integer(0), x.dtype))

    return lowering.point(x.shape, x.dtype, make)


# --- factories ------------------------------------------------------------------------------------------


@lowers("full.default", "full_like.default", "scalar_tensor.default", "zeros.default", "ones.default",
        "zeros_like.default", "ones_like.default", "new_full.default", "new_zeros.default",
        "new_ones.default", "empty.memory_format", "empty_like.default", "fill.Scalar")  # fmt: skip
def _full(lowering: Lowering, *args: Any, **_: Any) -> Value:
    node = lowering.node
    assert node is not None
    name = node.op
    if "full" in name or "scalar_tensor" in name or "fill" in name:
        fill = args[-1] if "scalar_tensor" in name or len(args) == 2 else args[2]
    else:
        fill = 1 if "ones" in name else 0
    return lowering.full(node.tensor.shape, fill, node.tensor.dtype)


@lowers("arange.start_step", "arange.start", "arange.default")
def _arange(lowering: Lowering, *args: Any, **_: Any) -> Value:
    node = lowering.node
    assert node is not None
    start, step = (0, 1) if len(args) == 1 else (args[0], args[2] if len(args) > 2 else 1)
    dtype = node.tensor.dtype
    ix = lowering.ix
    if isinstance(start, int) and isinstance(step, int):
        return Value(
            node.tensor.shape, dtype, lambda i: cast(ix.add(ix.scale(i[0], step), integer(start)), dtype)
        )

    def load(i: tuple[Expr, ...]) -> Expr:
        scaled = Op("mul", (cast(i[0], "float64"), Const(float(step), "float64")), "float64")
        return cast(Op("add", (Const(float(start), "float64"), scaled), "float64"), dtype)

    return Value(node.tensor.shape, dtype, load)


@lowers("eye.default", "eye.m")
def _eye(lowering: Lowering, *_: Any, **__: Any) -> Value:
    node = lowering.node
    assert node is not None
    dtype = node.tensor.dtype
    return Value(node.tensor.shape, dtype, lambda i: cast(Op("eq", (i[0], i[1]), "bool"), dtype))
