"""Reductions, scans and what is made of them: moments, norms, softmax, normalisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from kevolve_core.ir import Const, Expr, Index, Op
from kevolve_core.synth.lower.core import Def, Lowering, Number, Value, accumulator, cast, dims_of, lowers, wide
from kevolve_core.synth.lower.pointwise import FLOATS, const, op, test, where
from kevolve_core.synth.lower.views import reshaped

__all__: list[str] = []


def _output(lowering: Lowering) -> str:
    """The dtype of the first result of the node being lowered."""
    node = lowering.node
    assert node is not None
    kind = node.type[0] if isinstance(node.type, tuple) else node.type
    assert kind is not None
    return kind.dtype


def _length(x: Value, dims: Sequence[int]) -> int:
    return math.prod(x.shape[d] for d in dims)


def _cast(lowering: Lowering, x: Value, dtype: str) -> Value:
    return x if x.dtype == dtype else lowering.point(x.shape, dtype, x.at, "wide")


def _rounded(lowering: Lowering, x: Value, dtype: str) -> Value:
    """``x`` in the result's dtype, as the last definition of the node."""
    return x if x.dtype == dtype else lowering.point(x.shape, dtype, x.at)


@lowers("sum.default", "sum.dim_IntList", "prod.default", "prod.dim_int")
def _sum(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    combiner = "prod" if lowering.node is not None and ".prod" in lowering.node.op else "sum"
    dtype = _output(lowering)
    if dtype in FLOATS:
        x = x if wide(dtype) == wide(x.dtype) else _cast(lowering, x, dtype)
        total = lowering.reduce(
            x, dims_of(dims, len(x.shape)), combiner, wide(dtype), keepdim=keepdim, accumulate=wide(dtype)
        )
        return _rounded(lowering, total, dtype)
    total = lowering.reduce(x, dims_of(dims, len(x.shape)), combiner, "int64", keepdim=keepdim, accumulate="int64")
    return _rounded(lowering, total, dtype)


def mean(lowering: Lowering, x: Value, dims: Sequence[int], keepdim: bool, suffix: str) -> Value:
    """The mean over ``dims`` in the accumulation dtype."""
    dtype = accumulator(x.dtype) if x.dtype in FLOATS else "float32"
    total = lowering.reduce(x, dims, "sum", dtype, keepdim=keepdim, accumulate=dtype, suffix=f"{suffix}_sum")
    n = _length(x, dims)
    return lowering.point(total.shape, dtype, lambda i: op("div", total.at(i), Const(float(n), dtype)), suffix)


@lowers("mean.default", "mean.dim")
def _mean(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = _output(lowering)
    return _rounded(lowering, mean(lowering, x, dims_of(dims, len(x.shape)), keepdim, "mean"), dtype)


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
    total = lowering.reduce(deviations, dims, "sum", dtype, keepdim=keepdim, accumulate=dtype, suffix="var_sum")
    n = max(0.0, _length(x, dims) - correction)
    spread = lowering.point(total.shape, dtype, lambda i: op("div", total.at(i), Const(float(n), dtype)), "var")
    if keepdim:
        return spread, center
    kept = [d for d in range(len(x.shape)) if d not in set(dims)]
    return spread, reshaped(lowering, center, [x.shape[d] for d in kept])


def _correction(unbiased: Any, correction: Any) -> Number:
    if isinstance(unbiased, bool):
        return 1 if unbiased else 0
    return 1 if correction is None else correction


@lowers("var.correction", "std.correction", "var_mean.correction", "std_mean.correction", "var.dim", "std.dim",
        "var.default", "std.default", "var_mean.dim", "var_mean.default")  # fmt: skip
def _var(
    lowering: Lowering, x: Value, dims: Any = None, unbiased: Any = None, keepdim: bool = False, correction: Any = None
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
    dtype = _output(lowering)
    v = _rounded(lowering, v, dtype)
    return (v, _rounded(lowering, m, dtype)) if "_mean" in node.op else v


@lowers("amax.default", "amin.default", "any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _extreme(lowering: Lowering, x: Value, dims: Any = None, keepdim: bool = False) -> Value:
    node = lowering.node
    assert node is not None
    combiner = {"amax": "max", "amin": "min", "any": "any", "all": "all"}[node.op.split(".")[1]]
    dtype = _output(lowering)
    inner = "bool" if combiner in {"any", "all"} else dtype
    found = lowering.reduce(x, dims_of(dims, len(x.shape)), combiner, inner, keepdim=keepdim, accumulate=inner)
    return _rounded(lowering, found, dtype)


@lowers("max.default", "min.default")
def _max_all(lowering: Lowering, x: Value) -> Value:
    combiner = "max" if lowering.node is not None and ".max" in lowering.node.op else "min"
    return lowering.reduce(x, (), combiner, x.dtype, accumulate=x.dtype)


@lowers("argmax.default", "argmin.default")
def _argmax(lowering: Lowering, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    combiner = "argmax" if lowering.node is not None and "argmax" in lowering.node.op else "argmin"
    found = lowering.reduce(x, dims_of(dim, len(x.shape)), combiner, "int64", keepdim=keepdim and True, accumulate=x.dtype)
    return found


@lowers("max.dim", "min.dim")
def _max_dim(lowering: Lowering, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    name = "max" if lowering.node is not None and ".max" in lowering.node.op else "min"
    over = dims_of(dim, len(x.shape))
    return (
        lowering.reduce(x, over, name, x.dtype, keepdim=keepdim, accumulate=x.dtype),
        lowering.reduce(x, over, f"arg{name}", "int64", keepdim=keepdim, accumulate=x.dtype, suffix="index"),
    )


@lowers("logsumexp.default")
def _logsumexp(lowering: Lowering, x: Value, dims: Any, keepdim: bool = False) -> Value:
    over = dims_of(dims, len(x.shape))
    dtype = wide(x.dtype)
    top, total, _ = _exponentials(lowering, x, over, finite=True)
    out = lowering.point(top.shape, dtype, lambda i: op("add", op("log", total.at(i)), top.at(i)), "lse")
    if not keepdim:
        out = reshaped(lowering, out, [n for d, n in enumerate(x.shape) if d not in set(over)])
    return _rounded(lowering, out, _output(lowering))


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
            lambda i: where(test("eq", op("abs", raw.at(i)), const(math.inf, raw.at(i))), const(0, raw.at(i)), raw.at(i)),
            "shift",
        )  # fmt: skip
    center = top

    def shifted(i: tuple[Expr, ...]) -> Expr:
        return op("sub", cast(x.at(i), dtype), cast(center.broadcast(i), dtype))

    powers = lowering.point(x.shape, dtype, lambda i: op("exp", shifted(i)), "exp")
    total = lowering.reduce(powers, dims, "sum", dtype, keepdim=True, accumulate=dtype, suffix="sum")
    return _cast(lowering, center, dtype), total, shifted


@lowers("_softmax.default", "_log_softmax.default", "softmax.int", "log_softmax.int", "_safe_softmax.default")
def _softmax(lowering: Lowering, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    node = lowering.node
    assert node is not None
    dtype = _output(lowering)
    if not x.shape:
        return lowering.full((), 0.0 if "log_" in node.op else 1.0, dtype)
    if wide(dtype) != wide(x.dtype):
        x = _cast(lowering, x, dtype)
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
    lowering: Lowering, x: Value, center: Value, rstd: Value, weight: Value | None, bias: Value | None, dtype: str,
    channel: Callable[[tuple[Expr, ...]], tuple[Expr, ...]], stat: Callable[[tuple[Expr, ...]], tuple[Expr, ...]],
) -> Value:  # fmt: skip
    """``(x - center) * rstd * weight + bias``; statistics at ``stat(index)``, weights at ``channel(index)``."""
    compute = rstd.dtype

    def make(i: tuple[Expr, ...]) -> Expr:
        y = op("mul", op("sub", cast(x.at(i), compute), center.at(stat(i))), rstd.at(stat(i)))
        if weight is not None:
            y = op("mul", y, cast(weight.at(channel(i)), compute))
        if bias is not None:
            y = op("add", y, cast(bias.at(channel(i)), compute))
        return y

    return lowering.point(x.shape, dtype, make)


def _rstd(lowering: Lowering, v: Value, eps: float) -> Value:
    return lowering.point(
        v.shape, v.dtype, lambda i: op("rsqrt", op("add", v.at(i), Const(float(eps), v.dtype))), "rstd"
    )


@lowers("native_layer_norm.default")
def _layer_norm(
    lowering: Lowering, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, Value, Value]:
    lead = len(x.shape) - len(shape)
    v, m = variance(lowering, x, range(lead, len(x.shape)), 0, True)
    r = _rstd(lowering, v, eps)
    rank = len(shape)
    out = _affine(
        lowering, x, m, r, weight, bias, x.dtype,
        channel=lambda i: i[lead:], stat=lambda i: (*i[:lead], *([const_zero()] * rank)),
    )  # fmt: skip
    return out, m, r


def const_zero() -> Expr:
    return Const(0, "int64")


@lowers("native_group_norm.default")
def _group_norm(
    lowering: Lowering, x: Value, weight: Value | None, bias: Value | None, n: int, c: int, hw: int, groups: int, eps: float
) -> tuple[Value, Value, Value]:
    grouped = reshaped(lowering, x, (n, groups, (c // groups) * hw))
    v, m = variance(lowering, grouped, (2,), 0, False)
    r = _rstd(lowering, v, eps)
    ix = lowering.ix
    out = _affine(
        lowering, x, m, r, weight, bias, x.dtype,
        channel=lambda i: (i[1],), stat=lambda i: (i[0], ix.floordiv(i[1], c // groups)),
    )  # fmt: skip
    return out, m, r


@lowers("native_batch_norm.default", "_native_batch_norm_legit.default", "_native_batch_norm_legit_no_training.default",
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
        over = [d for d in range(len(x.shape)) if d != 1]
        v, m = variance(lowering, x, over, 0, False)
    else:
        dtype = wide(x.dtype)
        m, v = _cast(lowering, running[0], dtype), _cast(lowering, running[1], dtype)
    r = _rstd(lowering, v, eps)
    out = _affine(lowering, x, m, r, weight, bias, x.dtype, channel=lambda i: (i[1],), stat=lambda i: (i[1],))
    if not training:
        return out, None, None, None, None
    if node.op.endswith("functional.default"):
        raise lowering.unsupported("batch normalisation that returns updated statistics")
    return out, m, r, None, None


@lowers("_fused_rms_norm.default", "rms_norm.default")
def _rms_norm(
    lowering: Lowering, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Any:
    import torch

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

    out = lowering.point(x.shape, _output(lowering), make)
    return (out, r) if isinstance(node.type, tuple) else out


@lowers("linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar")
def _vector_norm(lowering: Lowering, x: Value, order: Number = 2, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    dtype = _output(lowering)
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
    total = lowering.reduce(powers, over, combiner, compute, keepdim=keepdim, accumulate=compute, suffix="total")

    def root(i: tuple[Expr, ...]) -> Expr:
        e = total.at(i)
        if order == 2:
            return op("sqrt", e)
        return e if order in {0, 1, math.inf, -math.inf} else op("pow", e, const(1 / order, e))

    return lowering.point(total.shape, dtype, root)


@lowers("cumsum.default", "cumprod.default")
def _scan(lowering: Lowering, x: Value, dim: int, **_: Any) -> Value:
    node = lowering.node
    assert node is not None
    dtype = node.tensor.dtype
    accumulate = wide(dtype)
    axes = lowering.own_axes(x.shape)
    over = axes[dim % len(axes)] if axes else const_zero()
    value = cast(cast(x.at(axes), dtype), accumulate)
    if not isinstance(over, Index):
        return lowering.point(x.shape, dtype, lambda i: cast(x.at(i), dtype))
    combiner = "sum" if ".cumsum" in node.op else "prod"
    running = lowering.add(
        Def(
            lowering._name("running"), x.shape, accumulate, "scan", axes, value, (over.axis,), combiner, accumulate
        )
    )
    return _rounded(lowering, running, dtype)


# --- losses ---------------------------------------------------------------------------------------------


def _reduced(lowering: Lowering, loss: Value, reduction: int, dtype: str) -> Value:
    """ATen's reduction codes: 0 none, 1 mean, 2 sum."""
    if reduction == 0:
        return _rounded(lowering, loss, dtype)
    over = range(len(loss.shape))
    if reduction == 1:
        return _rounded(lowering, mean(lowering, loss, over, False, "mean"), dtype)
    acc = accumulator(loss.dtype)
    total = lowering.reduce(loss, tuple(over), "sum", acc, accumulate=acc, suffix="sum")
    return _rounded(lowering, total, dtype)


def _register_loss(name: str, make: Callable[..., Expr]) -> None:
    def rule(lowering: Lowering, a: Value, b: Value, *rest: Any, **named: Any) -> Value:
        reduction = rest[0] if rest else named.pop("reduction", 1)
        extra = [*rest[1:], *named.values()]
        compute, result = lowering.promoted(a, b)
        loss = lowering.pointwise(lambda x, y: make(x, y, *extra), a, b, suffix="loss", dtype=compute)
        return _reduced(lowering, loss, reduction, result)

    lowers(name)(rule)


def _mse(x: Expr, y: Expr) -> Expr:
    d = op("sub", x, y)
    return op("mul", d, d)


def _smooth_l1(x: Expr, y: Expr, beta: float = 1.0) -> Expr:
    d = op("abs", op("sub", x, y))
    if beta == 0:
        return d
    near = op("div", op("mul", op("mul", const(0.5, d), d), d), const(beta, d))
    return where(test("lt", d, const(beta, d)), near, op("sub", d, const(0.5 * beta, d)))


def _huber(x: Expr, y: Expr, delta: float = 1.0) -> Expr:
    d = op("abs", op("sub", x, y))
    near = op("mul", op("mul", const(0.5, d), d), d)
    far = op("mul", const(delta, d), op("sub", d, const(0.5 * delta, d)))
    return where(test("le", d, const(delta, d)), near, far)


def _soft_margin(x: Expr, y: Expr) -> Expr:
    return op("log1p", op("exp", op("mul", op("neg", x), y)))


_register_loss("mse_loss.default", _mse)
_register_loss("smooth_l1_loss.default", _smooth_l1)
_register_loss("huber_loss.default", _huber)
_register_loss("soft_margin_loss.default", _soft_margin)


@lowers("binary_cross_entropy.default")
def _bce(lowering: Lowering, x: Value, y: Value, weight: Value | None = None, reduction: int = 1) -> Value:
    def make(p: Expr, t: Expr, *w: Expr) -> Expr:
        def bounded(e: Expr) -> Expr:
            return op("max", e, const(-100, e))  # ATen clamps the logarithms at -100

        first = op("mul", op("sub", t, const(1, t)), bounded(op("log1p", op("neg", p))))
        loss = op("sub", first, op("mul", t, bounded(op("log", p))))
        return op("mul", loss, w[0]) if w else loss

    args = [x, y] + ([weight] if weight is not None else [])
    compute, result = lowering.promoted(*args)
    loss = lowering.pointwise(make, *args, suffix="loss", dtype=compute)
    return _reduced(lowering, loss, reduction, result)


@lowers("nll_loss_forward.default", "nll_loss2d_forward.default")
def _nll(
    lowering: Lowering, x: Value, target: Value, weight: Value | None, reduction: int, ignore_index: int
) -> tuple[Value, Value]:
    classes = 1 if len(x.shape) > 1 else 0
    acc = wide(x.dtype)
    n_classes = x.shape[classes]
    valid = lowering.point(
        target.shape, "bool", lambda i: test("ne", target.at(i), Const(ignore_index, target.dtype)), "valid"
    )

    def safe(i: tuple[Expr, ...]) -> Expr:
        e = where(valid.at(i), cast(target.at(i), "int64"), Const(0, "int64"))
        lowering.ix.ranges[e] = (0, n_classes - 1)
        return e

    def element(i: tuple[Expr, ...]) -> Expr:
        index = (*i[:classes], safe(i), *i[classes:])
        e = op("neg", cast(x.at(index), acc))
        if weight is not None:
            e = op("mul", e, cast(weight.at((safe(i),)), acc))
        return where(valid.at(i), e, const(0, e))

    def importance(i: tuple[Expr, ...]) -> Expr:
        one = Const(1.0, acc) if weight is None else cast(weight.at((safe(i),)), acc)
        return where(valid.at(i), one, const(0, one))

    loss = lowering.point(target.shape, acc, element, "loss")
    if reduction == 0:
        return _rounded(lowering, loss, x.dtype), lowering.full((), 0.0, x.dtype)
    over = tuple(range(len(target.shape)))
    share = lowering.point(target.shape, acc, importance, "share")
    total = lowering.reduce(loss, over, "sum", acc, accumulate=acc, suffix="sum")
    count = lowering.reduce(share, over, "sum", acc, accumulate=acc, suffix="count")
    if reduction == 1:
        total = lowering.pointwise(lambda a, b: Op("div", (a, b), acc), total, count, suffix="mean")
    return _rounded(lowering, total, x.dtype), _rounded(lowering, count, x.dtype)
