"""Pooling: reductions over windows, which are masked loads at affine positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from kevolve_core.ir import Const, Expr, Load, Op
from kevolve_core.synth.index import integer
from kevolve_core.synth.lower.core import TABLE, Lowering, Value, cast, lowers, wide
from kevolve_core.synth.lower.pointwise import FLOATS, op, test, where
from kevolve_core.synth.lower.reductions import rounded
from kevolve_core.synth.lower.views import conjunction, masked

__all__ = ["Windows", "slid", "windows"]


@frozen
class Windows:
    """Sliding windows over the last dimensions of a tensor: ``kernel`` points, ``dilation`` apart, starting
    every ``stride`` from ``-padding``; ``out`` windows a dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    out: tuple[int, ...]

    def position(self, lowering: Lowering, i: Sequence[Expr], k: Sequence[Expr]) -> list[Expr]:
        """The positions of point ``k`` of window ``i`` (outside the tensor in the padding)."""
        ix = lowering.ix
        return [
            ix.add(ix.add(ix.scale(e, s), ix.scale(w, d)), integer(-p))
            for e, w, s, d, p in zip(i, k, self.stride, self.dilation, self.padding, strict=True)
        ]

    def inside(self, lowering: Lowering, at: Sequence[Expr]) -> Expr:
        """Whether a position lies in the tensor."""
        ix = lowering.ix
        tests = [
            t
            for e, n in zip(at, self.size, strict=True)
            for t in (ix.compare("ge", e, 0), ix.compare("lt", e, n))
        ]
        return conjunction(tests)


def _many(value: Any, rank: int) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return given * rank if len(given) == 1 else given


def windows(
    lowering: Lowering, x: Value, kernel: Any, stride: Any, padding: Any, dilation: Any, rank: int
) -> Windows:
    """Windows over the last ``rank`` dimensions of ``x``; how many there are is the result's shape."""
    node = lowering.node
    assert node is not None
    kind = node.type[0] if isinstance(node.type, tuple) else node.type
    assert kind is not None
    kernel = _many(kernel, rank)
    stride = _many(stride, rank) if stride not in (None, [], ()) else kernel
    return Windows(
        kernel, stride, _many(padding, rank), _many(dilation, rank), x.shape[-rank:], kind.shape[-rank:]
    )


def _least(dtype: str) -> Const:
    if dtype in FLOATS:
        return Const(-math.inf, dtype)
    import torch

    return Const(torch.iinfo(getattr(torch, dtype)).min, dtype)


def slid(lowering: Lowering, x: Value) -> Value:
    """``x`` as windows read it: itself, where it is a definition or a view of one, or a definition of its
    own."""
    load = x.at(lowering.own_axes(x.shape))
    view = isinstance(load, Load) and load.mask is None
    return x if x.definition or view else lowering.materialised(x, "source")


def _windowed(lowering: Lowering, x: Value, w: Windows, fill: Const) -> Value:
    """``x`` with a dimension more for every dimension of the kernel; ``fill`` outside."""
    rank = len(w.kernel)
    lead = len(x.shape) - rank
    source = slid(lowering, x)

    def load(i: tuple[Expr, ...]) -> Expr:
        at = w.position(lowering, i[lead : lead + rank], i[lead + rank :])
        return masked(source, (*i[:lead], *at), w.inside(lowering, at), fill)

    return Value((*x.shape[:lead], *w.out, *w.kernel), x.dtype, load)


def _max_pool(lowering: Lowering, x: Value, w: Windows) -> tuple[Value, Value]:
    rank = len(w.kernel)
    lead = len(x.shape) - rank
    over = tuple(range(lead + rank, lead + 2 * rank))
    seen = _windowed(lowering, x, w, _least(x.dtype))
    top = lowering.reduce(seen, over, "max", x.dtype, accumulate=x.dtype)
    return top, _positions(lowering, seen, top, w, lead, over)


def _positions(
    lowering: Lowering, seen: Value, top: Value, w: Windows, lead: int, over: Sequence[int]
) -> Value:
    """Flat positions of the extrema: of the first one, but of the last NaN, as ATen's loop finds them."""
    rank = len(w.kernel)
    ix = lowering.ix
    far = integer(math.prod(w.size))

    def candidate(i: tuple[Expr, ...]) -> Expr:
        at = w.position(lowering, i[lead : lead + rank], i[lead + rank :])
        flat = ix.ravel(at, w.size)
        value, best = seen.load(i), top.load(i[: lead + rank])
        hit = where(Op("logical_and", (w.inside(lowering, at), test("eq", value, best)), "bool"), flat, far)
        if seen.dtype not in FLOATS:
            return hit
        last = where(test("isnan", value), ix.sub(integer(-1), flat), far)
        return where(test("isnan", best), last, hit)

    keys = Value(seen.shape, "int64", candidate)
    found = lowering.reduce(keys, over, "min", "int64", accumulate="int64", suffix="found")

    def position(i: tuple[Expr, ...]) -> Expr:
        e = found.at(i)
        return where(test("lt", e, integer(0)), op("sub", integer(-1), e), e)

    return lowering.point(found.shape, "int64", position, "index")


def _window_sums(
    lowering: Lowering, x: Value, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], out: Sequence[int], transposed: bool,
) -> Value:  # fmt: skip
    """Of a convolution: what each of its weights is multiplied with, summed over all ``out`` positions, as
    (batch, channels, *kernel)."""
    rank = len(kernel)
    size = x.shape[2:]
    w = Windows(tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), tuple(size), tuple(out))
    walked = tuple(size if transposed else out)
    dtype = x.dtype
    zero = cast(Const(0.0, "float64"), dtype)

    def load(i: tuple[Expr, ...]) -> Expr:
        point, along = i[2 : 2 + rank], i[2 + rank :]
        at = w.position(lowering, along, point)
        if not transposed:
            return masked(x, (*i[:2], *at), w.inside(lowering, at), zero)
        ix = lowering.ix
        tests = [t for e, n in zip(at, out, strict=True)
                 for t in (ix.compare("ge", e, 0), ix.compare("lt", e, n))]  # fmt: skip
        return masked(x, (*i[:2], *along), conjunction(tests), zero)

    seen = Value((*x.shape[:2], *kernel, *walked), dtype, load)
    over = tuple(range(2 + rank, 2 + 2 * rank))
    return lowering.reduce(seen, over, "sum", dtype, accumulate=dtype)


TABLE["kevolve.window_sums.default"] = _window_sums


@lowers("max_pool2d_with_indices.default", "max_pool3d_with_indices.default")
def _max_pool_nd(
    lowering: Lowering,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Value, Value]:
    del ceil_mode  # the result's shape says it
    node = lowering.node
    assert node is not None
    rank = 3 if "3d" in node.op else 2
    return _max_pool(lowering, x, windows(lowering, x, kernel, stride, padding, dilation, rank))


@lowers("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
def _avg_pool(
    lowering: Lowering,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    del ceil_mode
    node = lowering.node
    assert node is not None
    rank = int(node.op[len("aten.avg_pool")])
    w = windows(lowering, x, kernel, stride, padding, 1, rank)
    lead = len(x.shape) - rank
    dtype = wide(x.dtype)
    seen = _windowed(lowering, x, w, Const(0.0, x.dtype))
    over = tuple(range(lead + rank, lead + 2 * rank))
    total = lowering.reduce(seen, over, "sum", dtype, accumulate=dtype, suffix="sum")
    ix = lowering.ix

    def count(e: Expr, d: int) -> Expr:
        """Elements of window ``e`` that count in dimension ``d``."""
        k, s, p, n = w.kernel[d], w.stride[d], w.padding[d], w.size[d]
        start = ix.add(ix.scale(e, s), integer(-p))
        end = _smaller(lowering, ix.add(start, integer(k)), n + p if count_include_pad else n)
        return ix.sub(end, start if count_include_pad else _larger(lowering, start, 0))

    def mean(i: tuple[Expr, ...]) -> Expr:
        if divisor_override is not None:
            return op("div", total.at(i), Const(float(divisor_override), dtype))
        counts = [count(e, d) for d, e in enumerate(i[lead:])]
        product: Expr = integer(1)
        for c in counts:
            product = ix.op("mul", (product, c), "int64")
        return op("div", total.at(i), cast(product, dtype))

    return rounded(lowering, lowering.point(total.shape, dtype, mean, "mean"), x.dtype)


def _smaller(lowering: Lowering, e: Expr, bound: int) -> Expr:
    """``min(e, bound)``, decided where the range of ``e`` decides it."""
    low, high = lowering.ix.bounds(e)
    if high <= bound:
        return e
    return integer(bound) if low >= bound else Op("min", (e, integer(bound)), "int64")


def _larger(lowering: Lowering, e: Expr, bound: int) -> Expr:
    low, high = lowering.ix.bounds(e)
    if low >= bound:
        return e
    return integer(bound) if high <= bound else Op("max", (e, integer(bound)), "int64")


# --- adaptive -------------------------------------------------------------------------------------------


def _adaptive(lowering: Lowering, x: Value, rank: int, fill: Const) -> tuple[Value, Any]:
    """Windows whose bounds are ``floor(i * size / out)`` and ``ceil((i + 1) * size / out)``, all as long as
    the longest and masked; and a function that gives the bounds of one."""
    node = lowering.node
    assert node is not None
    kind = node.type[0] if isinstance(node.type, tuple) else node.type
    assert kind is not None
    size, out = x.shape[-rank:], kind.shape[-rank:]
    lead = len(x.shape) - rank
    longest = [
        max(-(-(i + 1) * n // m) - i * n // m for i in range(m)) for n, m in zip(size, out, strict=True)
    ]
    source = x if x.definition else lowering.materialised(x, "source")
    ix = lowering.ix

    def bounds(e: Expr, d: int) -> tuple[Expr, Expr]:
        n, m = size[d], out[d]
        start = ix.floordiv(ix.scale(e, n), m)
        end = ix.floordiv(ix.add(ix.scale(e, n), integer(n + m - 1)), m)
        return start, end

    def load(i: tuple[Expr, ...]) -> Expr:
        at, tests = [], []
        for d in range(rank):
            start, end = bounds(i[lead + d], d)
            p = ix.add(start, i[lead + rank + d])
            at.append(p)
            if any(
                -(-(j + 1) * size[d] // out[d]) - j * size[d] // out[d] < longest[d] for j in range(out[d])
            ):
                tests.append(Op("lt", (p, end), "bool"))
        return masked(source, (*i[:lead], *at), conjunction(tests), fill)

    return Value((*x.shape[:lead], *out, *longest), x.dtype, load), bounds


@lowers("_adaptive_avg_pool2d.default", "_adaptive_avg_pool3d.default", "adaptive_avg_pool1d.default",
        "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default")  # fmt: skip
def _adaptive_avg(lowering: Lowering, x: Value, output: Any) -> Value:
    del output
    node = lowering.node
    assert node is not None
    rank = int(node.op.split("pool")[1][0])
    lead = len(x.shape) - rank
    dtype = wide(x.dtype)
    seen, bounds = _adaptive(lowering, x, rank, Const(0.0, x.dtype))
    over = tuple(range(lead + rank, lead + 2 * rank))
    total = lowering.reduce(seen, over, "sum", dtype, accumulate=dtype, suffix="sum")
    ix = lowering.ix

    def mean(i: tuple[Expr, ...]) -> Expr:
        e = total.at(i)
        for d in range(rank):
            start, end = bounds(i[lead + d], d)
            e = op("div", e, cast(ix.sub(end, start), dtype))
        return e

    return rounded(lowering, lowering.point(total.shape, dtype, mean, "mean"), x.dtype)


@lowers("adaptive_max_pool2d.default", "adaptive_max_pool3d.default")
def _adaptive_max(lowering: Lowering, x: Value, output: Any) -> tuple[Value, Value]:
    del output
    node = lowering.node
    assert node is not None
    rank = int(node.op.split("pool")[1][0])
    lead = len(x.shape) - rank
    size = x.shape[-rank:]
    seen, bounds = _adaptive(lowering, x, rank, _least(x.dtype))
    over = tuple(range(lead + rank, lead + 2 * rank))
    top = lowering.reduce(seen, over, "max", x.dtype, accumulate=x.dtype)
    ix = lowering.ix
    far = integer(math.prod(size))

    def candidate(i: tuple[Expr, ...]) -> Expr:
        at, tests = [], []
        for d in range(rank):
            start, end = bounds(i[lead + d], d)
            p = ix.add(start, i[lead + rank + d])
            at.append(p)
            tests.append(Op("lt", (p, end), "bool"))
        flat = ix.ravel(at, size)
        value, best = seen.load(i), top.load(i[: lead + rank])
        hit = where(conjunction([*tests, test("eq", value, best)]), flat, far)
        if seen.dtype not in FLOATS:
            return hit
        last = where(test("isnan", value), ix.sub(integer(-1), flat), far)
        return where(test("isnan", best), last, hit)

    keys = Value(seen.shape, "int64", candidate)
    found = lowering.reduce(keys, over, "min", "int64", accumulate="int64", suffix="found")

    def position(i: tuple[Expr, ...]) -> Expr:
        e = found.at(i)
        return where(test("lt", e, integer(0)), op("sub", integer(-1), e), e)

    return top, lowering.point(found.shape, "int64", position, "index")
