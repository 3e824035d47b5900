"""Reductions and scans, moments and vector norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import frozen

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
from kevolve_core.synth.lower.pointwise import FLOATS, const, op, test, where
from kevolve_core.synth.lower.views import reshaped

#: Elements up to which a variance is computed in float64 throughout, as ATen does on the CPU; the errors of
#: more terms average out, so that their sum in float64 is enough. Estimated.
_EXACT = 1024

__all__ = ["Moments", "mean", "moments", "output_dtype", "rounded", "widened"]


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


def mean(
    lowering: Lowering, x: Value, dims: Sequence[int], keepdim: bool, suffix: str, accumulate: str = ""
) -> Value:
    """The mean over ``dims`` in the accumulation dtype, its sum taken in ``accumulate`` if given."""
    dtype = accumulator(x.dtype) if x.dtype in FLOATS else "float32"
    total = lowering.reduce(
        x, dims, "sum", dtype, keepdim=keepdim, accumulate=accumulate or dtype, suffix=f"{suffix}_sum"
    )
    n = _length(x, dims)
    return lowering.point(
        total.shape, dtype, lambda i: op("div", total.at(i), Const(float(n), dtype)), suffix
    )


@lowers("mean.default", "mean.dim")
def _mean(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = output_dtype(lowering)
    return rounded(lowering, mean(lowering, x, dims_of(dims, len(x.shape)), keepdim, "mean"), dtype)


@frozen(eq=False)
class Moments:
    """Variance and mean over some dimensions, in the accumulation dtype, kept as extent 1.

    ``drift``, where there is one, is what rounding left out of the mean: a row far from zero with a small
    spread needs both (Chan, Golub and LeVeque 1983, the corrected two-pass algorithm).
    """

    variance: Value
    center: Value
    drift: Value | None

    def deviation(self, e: Expr, at: tuple[Expr, ...]) -> Expr:
        """``e`` less the mean at ``at``."""
        d = op("sub", cast(e, self.center.dtype), self.center.at(at))
        return d if self.drift is None else op("sub", d, self.drift.at(at))

    def mean(self, lowering: Lowering) -> Value:
        """The mean, rounded once."""
        drift = self.drift
        if drift is None:
            return self.center
        return lowering.point(
            drift.shape, drift.dtype, lambda i: op("add", self.center.at(i), drift.at(i)), "whole_mean"
        )


def moments(
    lowering: Lowering, x: Value, dims: Sequence[int], correction: Number = 0, accumulate: str = ""
) -> Moments:
    """`Moments` of ``x``: squared deviations from the mean, less what the deviations themselves add up to.
    Half precision has no digits that a drift would show in, float64 no reference that would see it."""
    dtype = accumulator(x.dtype)
    acc = accumulate or dtype
    center = mean(lowering, x, dims, True, "mean", acc)
    deviations = lowering.point(
        x.shape, dtype, lambda i: op("sub", cast(x.at(i), dtype), center.broadcast(i)), "deviation"
    )

    def squared(i: tuple[Expr, ...]) -> Expr:
        d = deviations.at(i)
        return op("mul", d, d)

    squares = lowering.point(x.shape, dtype, squared, "square")
    total = lowering.reduce(squares, dims, "sum", dtype, keepdim=True, accumulate=acc, suffix="var_sum")
    n = _length(x, dims)
    divisor = Const(float(max(0.0, n - correction)), dtype)
    if x.dtype != "float32":
        spread = lowering.point(total.shape, dtype, lambda i: op("div", total.at(i), divisor), "var")
        return Moments(spread, center, None)
    rest = lowering.reduce(deviations, dims, "sum", dtype, keepdim=True, accumulate=acc, suffix="drift_sum")
    drift = lowering.point(
        rest.shape, dtype, lambda i: op("div", rest.at(i), Const(float(n), dtype)), "drift"
    )

    def corrected(i: tuple[Expr, ...]) -> Expr:
        excess = op("sub", total.at(i), op("mul", rest.at(i), drift.at(i)))
        return op("div", op("max", excess, const(0, excess)), divisor)  # rounding may pass zero

    return Moments(lowering.point(total.shape, dtype, corrected, "var"), center, drift)


def _correction(unbiased: Any, correction: Any) -> Number:
    if isinstance(unbiased, bool):
        return 1 if unbiased else 0
    return 1 if correction is None else correction


def _running_mean(lowering: Lowering, x: Value, over: Sequence[int], found: Moments, acc: str) -> Value:
    """The mean as ATen's running one: NaN where infinity is met, but for the last element, after which
    nothing is subtracted from it. Its sum is taken in float64, beside which a drift of float32 deviations,
    all rounded the same way, is the larger error."""
    whole, dtype = found.center, found.center.dtype
    long = [d for d in over if x.shape[d] > 1]
    if not long:
        return whole

    def but_last(i: tuple[Expr, ...]) -> Expr:
        earlier = [test("lt", i[d], Const(x.shape[d] - 1, "int64")) for d in long]
        some = earlier[0]
        for each in earlier[1:]:
            some = test("logical_or", some, each)
        e = cast(x.at(i), dtype)
        return where(some, e, const(0, e))

    kept = lowering.point(x.shape, dtype, but_last, "before")
    rest = lowering.reduce(
        kept, over, "sum", dtype, keepdim=True, accumulate=acc or dtype, suffix="before_sum"
    )

    def running(i: tuple[Expr, ...]) -> Expr:
        return op("add", whole.at(i), op("sub", rest.at(i), rest.at(i)))

    return lowering.point(whole.shape, dtype, running)


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
    if x.dtype == "float32" and _length(x, over) <= _EXACT:
        x = widened(lowering, x, "float64")
    acc = "float64" if x.dtype == "float32" else ""
    found = moments(lowering, x, over, _correction(unbiased, correction), acc)
    v = found.variance
    m = _running_mean(lowering, x, over, found, acc) if "_mean" in node.op else found.center
    if not keepdim:
        kept = [x.shape[d] for d in range(len(x.shape)) if d not in set(over)]
        v, m = reshaped(lowering, v, kept), reshaped(lowering, m, kept)
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
