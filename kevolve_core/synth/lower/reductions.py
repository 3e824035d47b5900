"""Reductions and scans, moments and vector norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kevolve_core.ir import Const, Expr, Index
from kevolve_core.synth.index import ZERO
from kevolve_core.synth.lower.core import (
    Def,
    Lowering,
    Number,
    Value,
    accumulator,
    cast,
    dims_of,
    lowers,
    wide,
)
from kevolve_core.synth.lower.pointwise import FLOATS, const, op, test
from kevolve_core.synth.lower.views import reshaped

__all__ = ["mean", "output_dtype", "rounded", "variance", "widened"]


def output_dtype(lowering: Lowering) -> str:
    """The dtype of the first result of the node being lowered."""
    node = lowering.node
    assert node is not None
    kind = node.type[0] if isinstance(node.type, tuple) else node.type
    assert kind is not None
    return kind.dtype


def _length(x: Value, dims: Sequence[int]) -> int:
    return math.prod(x.shape[d] for d in dims)


def widened(lowering: Lowering, x: Value, dtype: str) -> Value:
    """``x`` converted to ``dtype``."""
    return x if x.dtype == dtype else lowering.point(x.shape, dtype, x.at, "wide")


def rounded(lowering: Lowering, x: Value, dtype: str) -> Value:
    """``x`` in the result's dtype, as the last definition of the node."""
    return x if x.dtype == dtype else lowering.point(x.shape, dtype, x.at)


@lowers("sum.default", "sum.dim_IntList", "prod.default", "prod.dim_int")
def _sum(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    combiner = "prod" if lowering.node is not None and ".prod" in lowering.node.op else "sum"
    dtype = output_dtype(lowering)
    if dtype in FLOATS:
        x = x if wide(dtype) == wide(x.dtype) else widened(lowering, x, dtype)
        total = lowering.reduce(
            x, dims_of(dims, len(x.shape)), combiner, wide(dtype), keepdim=keepdim, accumulate=wide(dtype)
        )
        return rounded(lowering, total, dtype)
    total = lowering.reduce(
        x, dims_of(dims, len(x.shape)), combiner, "int64", keepdim=keepdim, accumulate="int64"
    )
    return rounded(lowering, total, dtype)


def mean(lowering: Lowering, x: Value, dims: Sequence[int], keepdim: bool, suffix: str) -> Value:
    """The mean over ``dims`` in the accumulation dtype."""
    dtype = accumulator(x.dtype) if x.dtype in FLOATS else "float32"
    total = lowering.reduce(x, dims, "sum", dtype, keepdim=keepdim, accumulate=dtype, suffix=f"{suffix}_sum")
    n = _length(x, dims)
    return lowering.point(
        total.shape, dtype, lambda i: op("div", total.at(i), Const(float(n), dtype)), suffix
    )


@lowers("mean.default", "mean.dim")
def _mean(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = output_dtype(lowering)
    return rounded(lowering, mean(lowering, x, dims_of(dims, len(x.shape)), keepdim, "mean"), dtype)


def variance(
    lowering: Lowering, x: Value, dims: Sequence[int], correction: Number, keepdim: bool
) -> tuple[Value, Value]:
    """(variance, mean) over ``dims`` in the accumulation dtype: squared deviations from the mean."""
    dtype = accumulator(x.dtype)
    center = mean(lowering, x, dims, True, "mean")

    def squared(i: tuple[Expr, ...]) -> Expr:
        d = op("sub", cast(x.at(i), dtype), center.broadcast(i))
        return op("mul", d, d)

    deviations = lowering.point(x.shape, dtype, squared, "deviation")
    total = lowering.reduce(
        deviations, dims, "sum", dtype, keepdim=keepdim, accumulate=dtype, suffix="var_sum"
    )
    n = max(0.0, _length(x, dims) - correction)
    spread = lowering.point(
        total.shape, dtype, lambda i: op("div", total.at(i), Const(float(n), dtype)), "var"
    )
    if keepdim:
        return spread, center
    kept = [d for d in range(len(x.shape)) if d not in set(dims)]
    return spread, reshaped(lowering, center, [x.shape[d] for d in kept])


def _correction(unbiased: Any, correction: Any) -> Number:
    if isinstance(unbiased, bool):
        return 1 if unbiased else 0
    return 1 if correction is None else correction


@lowers("var.correction", "std.correction", "var_mean.correction", "std_mean.correction", "var.dim",
        "std.dim", "var.default", "std.default", "var_mean.dim", "var_mean.default")  # fmt: skip
def _var(
    lowering: Lowering,
    x: Value,
    dims: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    correction: Any = None,
) -> Any:
    node = lowering.node
    assert node is not None
    if isinstance(dims, bool):
        dims, unbiased = None, dims
    over = dims_of(dims, len(x.shape))
    v, m = variance(lowering, x, over, _correction(unbiased, correction), keepdim)
    if ".std" in node.op:
        inner = v
        v = lowering.point(inner.shape, inner.dtype, lambda i: op("sqrt", inner.at(i)), "std")
    dtype = output_dtype(lowering)
    v = rounded(lowering, v, dtype)
    return (v, rounded(lowering, m, dtype)) if "_mean" in node.op else v


@lowers(
    "amax.default", "amin.default", "any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims"
)
def _extreme(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False) -> Value:
    node = lowering.node
    assert node is not None
    combiner = {"amax": "max", "amin": "min", "any": "any", "all": "all"}[node.op.split(".")[1]]
    dtype = output_dtype(lowering)
    inner = "bool" if combiner in {"any", "all"} else dtype
    over = dims_of(dims, len(x.shape))
    found = lowering.reduce(x, over, combiner, inner, keepdim=keepdim, accumulate=inner)
    return rounded(lowering, found, dtype)


@lowers("max.default", "min.default")
def _max_all(lowering: Lowering, x: Value) -> Value:
    combiner = "max" if lowering.node is not None and ".max" in lowering.node.op else "min"
    return lowering.reduce(x, (), combiner, x.dtype, accumulate=x.dtype)


@lowers("argmax.default", "argmin.default")
def _argmax(lowering: Lowering, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    combiner = "argmax" if lowering.node is not None and "argmax" in lowering.node.op else "argmin"
    over = dims_of(dim, len(x.shape))
    return lowering.reduce(x, over, combiner, "int64", keepdim=keepdim, accumulate=x.dtype)


@lowers("max.dim", "min.dim")
def _max_dim(lowering: Lowering, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    name = "max" if lowering.node is not None and ".max" in lowering.node.op else "min"
    over = dims_of(dim, len(x.shape))
    return (
        lowering.reduce(x, over, name, x.dtype, keepdim=keepdim, accumulate=x.dtype),
        lowering.reduce(x, over, f"arg{name}", "int64", keepdim=keepdim, accumulate=x.dtype, suffix="index"),
    )


@lowers("linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar")
def _vector_norm(
    lowering: Lowering, x: Value, order: Number = 2, dims: Any = None, keepdim: bool = False, **_: Any
) -> Value:
    dtype = output_dtype(lowering)
    compute = wide(dtype)
    over = dims_of(dims, len(x.shape))
    order = 2 if order is None else order

    def magnitude(i: tuple[Expr, ...]) -> Expr:
        e = cast(x.at(i), compute)
        if order == 2:
            return op("mul", e, e)
        a = op("abs", e)
        if order == 0:
            return cast(test("ne", a, const(0, a)), compute)
        return a if order in {1, math.inf, -math.inf} else op("pow", a, const(order, a))

    combiner = {math.inf: "max", -math.inf: "min"}.get(order, "sum")
    powers = lowering.point(x.shape, compute, magnitude, "power")
    total = lowering.reduce(
        powers, over, combiner, compute, keepdim=keepdim, accumulate=compute, suffix="total"
    )

    def root(i: tuple[Expr, ...]) -> Expr:
        e = total.at(i)
        if order == 2:
            return op("sqrt", e)
        return e if order in {0, 1, math.inf, -math.inf} else op("pow", e, const(1 / order, e))

    return lowering.point(total.shape, dtype, root)


@lowers("cumsum.default", "cumprod.default")
def _scan(lowering: Lowering, x: Value, dim: int, *, reverse: bool = False, **_: Any) -> Value:
    node = lowering.node
    assert node is not None
    dtype = node.tensor.dtype
    accumulate = wide(dtype)
    axes = lowering.own_axes(x.shape)
    over = axes[dim % len(axes)] if axes else ZERO
    value = cast(cast(x.at(axes), dtype), accumulate)
    if not isinstance(over, Index):
        return lowering.point(x.shape, dtype, lambda i: cast(x.at(i), dtype))
    combiner = "sum" if ".cumsum" in node.op else "prod"
    running = lowering.add(
        Def(
            lowering._name("running"),
            x.shape,
            accumulate,
            "scan",
            axes,
            value,
            (over.axis,),
            combiner,
            accumulate,
            reverse=reverse,
        )
    )
    return rounded(lowering, running, dtype)
