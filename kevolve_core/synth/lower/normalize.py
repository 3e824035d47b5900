"""Row normalisations: softmax and the norms of layers, groups, batches and roots of mean squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kevolve_core.ir import Const, Expr, Load
from kevolve_core.synth.index import ZERO
from kevolve_core.synth.lower.core import Lowering, Value, cast, dims_of, lowers, wide
from kevolve_core.synth.lower.pointwise import const, op, test, where
from kevolve_core.synth.lower.reductions import Moments, mean, moments, output_dtype, rounded, widened
from kevolve_core.synth.lower.views import reshaped

__all__: list[str] = []

Map = Callable[[tuple[Expr, ...]], tuple[Expr, ...]]


@lowers("logsumexp.default")
def _logsumexp(lowering: Lowering, x: Value, dims: Any, keepdim: bool = False) -> Value:
    over = dims_of(dims, len(x.shape))
    dtype = wide(x.dtype)
    top, total, _ = _exponentials(lowering, x, over, finite=True)
    out = lowering.point(top.shape, dtype, lambda i: op("add", op("log", total.at(i)), top.at(i)), "lse")
    if not keepdim:
        out = reshaped(lowering, out, [n for d, n in enumerate(x.shape) if d not in set(over)])
    return rounded(lowering, out, output_dtype(lowering))


def _finite(e: Expr) -> Expr:
    """``e``, or 0 where it is infinite."""
    return where(test("eq", op("abs", e), const(math.inf, e)), const(0, e), e)


def _exponentials(
    lowering: Lowering, x: Value, dims: Sequence[int], finite: bool = False
) -> tuple[Value, Value, Callable[[tuple[Expr, ...]], Expr]]:
    """(maximum, sum of exponentials, shifted element) over ``dims``, both kept as extent 1."""
    dtype = wide(x.dtype)
    top = lowering.reduce(x, dims, "max", x.dtype, keepdim=True, accumulate=x.dtype, suffix="max")
    if finite:  # an infinite maximum is not subtracted, as ATen's logsumexp has it
        raw = top
        top = lowering.point(
            raw.shape, x.dtype,
            lambda i: _finite(raw.at(i)),
            "shift",
        )  # fmt: skip
    center = top

    def shifted(i: tuple[Expr, ...]) -> Expr:
        return op("sub", cast(x.at(i), dtype), cast(center.broadcast(i), dtype))

    powers = lowering.point(x.shape, dtype, lambda i: op("exp", shifted(i)), "exp")
    total = lowering.reduce(powers, dims, "sum", dtype, keepdim=True, accumulate=dtype, suffix="sum")
    return widened(lowering, center, dtype), total, shifted


@lowers("_softmax.default", "_log_softmax.default", "softmax.int", "log_softmax.int", "_safe_softmax.default")
def _softmax(lowering: Lowering, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    node = lowering.node
    assert node is not None
    dtype = output_dtype(lowering)
    if not x.shape:
        return lowering.full((), 0.0 if "log_" in node.op else 1.0, dtype)
    if wide(dtype) != wide(x.dtype):
        x = widened(lowering, x, dtype)
    over = dims_of(dim, len(x.shape))
    top, total, shifted = _exponentials(lowering, x, over)
    if "log_" in node.op:
        logged = lowering.point(total.shape, total.dtype, lambda i: op("log", total.at(i)), "log")
        return lowering.point(x.shape, dtype, lambda i: op("sub", shifted(i), logged.broadcast(i)))
    powers = lowering.whole(f"{node.name}_exp")
    safe = "_safe" in node.op

    def make(i: tuple[Expr, ...]) -> Expr:
        y = op("div", powers.at(i), total.broadcast(i))
        if safe:  # a row that is all -inf gives zeros
            m = top.broadcast(i)
            y = where(test("eq", m, const(-math.inf, m)), const(0, y), y)
        return y

    return lowering.point(x.shape, dtype, make)


def _affine(
    lowering: Lowering, x: Value, found: Moments, weight: Value | None, bias: Value | None, eps: float,
    channel: Map, stat: Map, distributed: bool = True,
) -> tuple[Value, Value]:  # fmt: skip
    """``(x - mean) * rstd * weight + bias`` and rstd; statistics at ``stat(i)``, weights at
    ``channel(i)``.

    Where ``distributed`` and the weight is data, which may be infinite, an infinite slope multiplies ``x``
    and the mean each, as ATen's kernels do.
    """
    rstd = _rstd(lowering, found.variance, eps)
    compute = rstd.dtype
    apart = distributed and weight is not None and not _is_parameter(lowering, weight)

    def make(i: tuple[Expr, ...]) -> Expr:
        y = op("mul", found.deviation(x.at(i), stat(i)), rstd.at(stat(i)))
        shift = None if bias is None else cast(bias.at(channel(i)), compute)
        if weight is not None:
            y = op("mul", y, cast(weight.at(channel(i)), compute))
        y = y if shift is None else op("add", y, shift)
        if weight is None or not apart:
            return y
        slope = op("mul", rstd.at(stat(i)), cast(weight.at(channel(i)), compute))
        start = op("mul", found.center.at(stat(i)), slope)
        start = op("neg", start) if shift is None else op("sub", shift, start)
        steep = op("add", op("mul", cast(x.at(i), compute), slope), start)
        return where(test("isinf", slope), steep, y)

    return lowering.point(x.shape, x.dtype, make), rstd


def _is_parameter(lowering: Lowering, x: Value) -> bool:
    load = x.at(lowering.own_axes(x.shape))
    return isinstance(load, Load) and lowering.defs[load.buffer].kind == "param"


def _rstd(lowering: Lowering, v: Value, eps: float) -> Value:
    return lowering.point(
        v.shape, v.dtype, lambda i: op("rsqrt", op("add", v.at(i), Const(float(eps), v.dtype))), "rstd"
    )


@lowers("native_layer_norm.default")
def _layer_norm(
    lowering: Lowering, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, Value, Value]:
    lead = len(x.shape) - len(shape)
    found = moments(lowering, x, range(lead, len(x.shape)))
    rank = len(shape)
    out, r = _affine(
        lowering, x, found, weight, bias, eps,
        channel=lambda i: i[lead:], stat=lambda i: (*i[:lead], *([ZERO] * rank)), distributed=False,
    )  # fmt: skip
    return out, found.mean(lowering), r


@lowers("native_group_norm.default")
def _group_norm(
    lowering: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    n: int,
    c: int,
    hw: int,
    groups: int,
    eps: float,
) -> tuple[Value, Value, Value]:
    grouped = reshaped(lowering, x, (n, groups, (c // groups) * hw))
    found = moments(lowering, grouped, (2,))
    ix = lowering.ix
    out, r = _affine(
        lowering, x, found, weight, bias, eps,
        channel=lambda i: (i[1],), stat=lambda i: (i[0], ix.floordiv(i[1], c // groups), ZERO),
    )  # fmt: skip
    m = found.mean(lowering)
    return out, reshaped(lowering, m, (n, groups)), reshaped(lowering, r, (n, groups))


@lowers("native_batch_norm.default", "_native_batch_norm_legit.default",
        "_native_batch_norm_legit_no_training.default",
        "_native_batch_norm_legit.no_stats", "_native_batch_norm_legit_functional.default",
        "_batch_norm_no_update.default")  # fmt: skip
def _batch_norm(
    lowering: Lowering, x: Value, weight: Value | None, bias: Value | None, *rest: Any
) -> tuple[Value | None, ...]:
    node = lowering.node
    assert node is not None
    running: tuple[Any, ...] = ()
    if "no_stats" not in node.op:
        running, rest = rest[:2], rest[2:]
    training = "no_training" not in node.op and "_no_update" not in node.op and bool(rest[0])
    eps = rest[-1]
    if training or not running:
        found = moments(lowering, x, [d for d in range(len(x.shape)) if d != 1])
        channels = (x.shape[1],)

        def stat(i: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return tuple(e if d == 1 else ZERO for d, e in enumerate(i))

        out, r = _affine(lowering, x, found, weight, bias, eps, channel=lambda i: (i[1],), stat=stat)
        if node.op.endswith("functional.default"):
            raise lowering.unsupported("batch normalisation that returns updated statistics")
        m = reshaped(lowering, found.mean(lowering), channels)
        return out, m, reshaped(lowering, r, channels), None, None
    dtype = wide(x.dtype)
    m, v = widened(lowering, running[0], dtype), widened(lowering, running[1], dtype)
    out, _ = _affine(
        lowering, x, Moments(v, m, None), weight, bias, eps,
        channel=lambda i: (i[1],), stat=lambda i: (i[1],),
    )  # fmt: skip
    return out, None, None, None, None


@lowers("_fused_rms_norm.default", "rms_norm.default")
def _rms_norm(
    lowering: Lowering, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Any:
    node = lowering.node
    assert node is not None
    lead = len(x.shape) - len(shape)
    dtype = wide(x.dtype)
    square = lowering.point(
        x.shape, dtype, lambda i: op("mul", cast(x.at(i), dtype), cast(x.at(i), dtype)), "square"
    )
    m = mean(lowering, square, range(lead, len(x.shape)), True, "mean")
    epsilon = torch.finfo(getattr(torch, dtype)).eps if eps is None else eps
    r = _rstd(lowering, m, epsilon)

    def make(i: tuple[Expr, ...]) -> Expr:
        y = op("mul", cast(x.at(i), dtype), r.broadcast(i))
        return y if weight is None else op("mul", y, cast(weight.at(i[lead:]), dtype))

    out = lowering.point(x.shape, output_dtype(lowering), make)
    return (out, r) if isinstance(node.type, tuple) else out
