"""Losses: an elementwise part and a reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kevolve_core.ir import Const, Expr, Op
from kevolve_core.synth.lower.core import Lowering, Value, accumulator, cast, lowers, wide
from kevolve_core.synth.lower.pointwise import const, op, test, where
from kevolve_core.synth.lower.reductions import mean, rounded

__all__: list[str] = []


def _reduced(lowering: Lowering, loss: Value, reduction: int, dtype: str) -> Value:
    """ATen's reduction codes: 0 none, 1 mean, 2 sum."""
    if reduction == 0:
        return rounded(lowering, loss, dtype)
    over = range(len(loss.shape))
    if reduction == 1:
        return rounded(lowering, mean(lowering, loss, over, False, "mean"), dtype)
    acc = accumulator(loss.dtype)
    total = lowering.reduce(loss, tuple(over), "sum", acc, accumulate=acc, suffix="sum")
    return rounded(lowering, total, dtype)


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
        return rounded(lowering, loss, x.dtype), lowering.full((), 0.0, x.dtype)
    over = tuple(range(len(target.shape)))
    share = lowering.point(target.shape, acc, importance, "share")
    total = lowering.reduce(loss, over, "sum", acc, accumulate=acc, suffix="sum")
    count = lowering.reduce(share, over, "sum", acc, accumulate=acc, suffix="count")
    if reduction == 1:
        total = lowering.pointwise(lambda a, b: Op("div", (a, b), acc), total, count, suffix="mean")
    return rounded(lowering, total, x.dtype), rounded(lowering, count, x.dtype)
