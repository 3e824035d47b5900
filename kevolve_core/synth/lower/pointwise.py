"""Pointwise operators: one expression each, promotion and rounding as ATen does."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kevolve_core.ir import Const, Expr, Op
from kevolve_core.synth.lower.core import Lowering, Number, Value, cast, lowers

__all__: list[str] = []

FLOATS = frozenset(["float64", "float32", "float16", "bfloat16"])


def op(name: str, *args: Expr) -> Expr:
    """An operator whose result has its first argument's dtype."""
    return Op(name, args, args[0].dtype)


def test(name: str, *args: Expr) -> Expr:
    """An operator whose result is bool."""
    return Op(name, args, "bool")


def const(value: float, like: Expr) -> Const:
    return Const(float(value), like.dtype) if like.dtype in FLOATS else Const(int(value), like.dtype)


def where(c: Expr, a: Expr, b: Expr) -> Expr:
    return Op("where", (c, a, b), a.dtype)


def _register(names: str, make: Callable[..., Expr], kind: str) -> None:
    def rule(lowering: Lowering, *args: Any, **_: Any) -> Value:
        return lowering.pointwise(make, *args, kind=kind)

    lowers(*names.split())(rule)


for _name in ("sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan",
              "asin",
              "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma",
              "reciprocal", "sigmoid"):  # fmt: skip
    _register(f"{_name}.default", partial(op, _name), "INT_TO_FLOAT")
for _name in ("neg", "abs", "relu"):
    _register(f"{_name}.default", partial(op, _name), "DEFAULT")
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _register(f"{_name}.Tensor {_name}.Scalar", partial(test, _name), "ALWAYS_BOOL")


def _sign(x: Expr) -> Expr:
    """-1, 0 or 1; 0 for NaN, as ATen has it."""
    if x.dtype == "bool":
        return x
    up, down = test("gt", x, const(0, x)), test("lt", x, const(0, x))
    return op("sub", cast(up, x.dtype), cast(down, x.dtype))


_register("sign.default sgn.default", _sign, "DEFAULT")


def _bitwise(name: str) -> Callable[..., Expr]:
    logical = f"logical_{name.removeprefix('bitwise_')}"
    return lambda *args: test(logical, *args) if args[0].dtype == "bool" else op(name, *args)


for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    _register(f"{_name}.Tensor {_name}.Scalar {_name}.Scalar_Tensor", _bitwise(_name), "DEFAULT")
for _name in ("atan2", "hypot", "copysign"):
    _register(f"{_name}.default {_name}.Tensor", partial(op, _name), "INT_TO_FLOAT")
_register("fmod.Tensor fmod.Scalar", partial(op, "fmod"), "DEFAULT")
_register("remainder.Tensor remainder.Scalar", partial(op, "remainder"), "DEFAULT")
_register("maximum.default", partial(op, "max"), "DEFAULT")
_register("minimum.default", partial(op, "min"), "DEFAULT")
_register(
    "mul.Tensor mul.Scalar",
    lambda x, y: test("logical_and", x, y) if x.dtype == "bool" else op("mul", x, y),
    "DEFAULT",
)
_register("bitwise_not.default", _bitwise("bitwise_not"), "DEFAULT")
_register(
    "bitwise_left_shift.Tensor __lshift__.Tensor __lshift__.Scalar", partial(op, "shift_left"), "DEFAULT"
)
_register(
    "bitwise_right_shift.Tensor __rshift__.Tensor __rshift__.Scalar", partial(op, "shift_right"), "DEFAULT"
)
_register(
    "pow.Tensor_Tensor pow.Scalar",
    partial(op, "pow"),
    "BOOL_TO_LONG",
)


def _rounding(name: str) -> Callable[..., Expr]:
    return lambda x: op(name, x) if x.dtype in FLOATS else x


for _name in ("floor", "ceil", "round", "trunc"):
    _register(f"{_name}.default", _rounding(_name), "DEFAULT")


def _logical(name: str) -> Callable[..., Expr]:
    return lambda *args: test(name, *(cast(a, "bool") for a in args))


for _name in ("logical_and", "logical_or", "logical_xor", "logical_not"):
    _register(f"{_name}.default", _logical(_name), "ALWAYS_BOOL")
_register(
    "isnan.default", lambda x: test("isnan", x) if x.dtype in FLOATS else Const(False, "bool"), "ALWAYS_BOOL"
)
_register(
    "isinf.default", lambda x: test("isinf", x) if x.dtype in FLOATS else Const(False, "bool"), "ALWAYS_BOOL"
)
_register("signbit.default", lambda x: test("lt", op("copysign", const(1, x), x), const(0, x)), "ALWAYS_BOOL")


@lowers("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar")
def _add(lowering: Lowering, a: Value, b: Value | Number, *rest: Any, alpha: Number = 1, **_: Any) -> Value:
    name = "sub" if lowering.node is not None and ".sub" in lowering.node.op else "add"
    scale = rest[0] if rest else alpha

    def make(x: Expr, y: Expr) -> Expr:
        y = y if scale == 1 else op("mul", y, const(scale, y))
        if x.dtype == "bool":
            return test("logical_or", x, y)
        return op(name, x, y)

    return lowering.pointwise(make, a, b)


@lowers("rsub.Tensor", "rsub.Scalar")
def _rsub(lowering: Lowering, a: Value, b: Value | Number, alpha: Number = 1) -> Value:
    return lowering.pointwise(
        lambda x, y: op("sub", y, op("mul", x, const(alpha, x)) if alpha != 1 else x), a, b
    )


@lowers("div.Tensor", "div.Scalar", "true_divide.Tensor", "div.Tensor_mode", "div.Scalar_mode",
        "floor_divide.default", "floor_divide.Scalar")  # fmt: skip
def _div(lowering: Lowering, a: Value, b: Value | Number, rounding_mode: str | None = None) -> Value:
    if lowering.node is not None and "floor_divide" in lowering.node.op:
        rounding_mode = "floor"
    if rounding_mode is None:
        return lowering.pointwise(partial(op, "div"), a, b, kind="INT_TO_FLOAT")

    def make(x: Expr, y: Expr) -> Expr:
        if rounding_mode == "floor":
            return op("floordiv", x, y)
        if x.dtype in FLOATS:
            return op("trunc", op("div", x, y))
        # Truncated = floored, plus one where the signs differ and there is a rest.
        floored, rest = op("floordiv", x, y), op("remainder", x, y)
        up = test(
            "logical_and", test("ne", rest, const(0, x)), test("lt", op("bitwise_xor", x, y), const(0, x))
        )
        return op("add", floored, cast(up, x.dtype))

    return lowering.pointwise(make, a, b)


@lowers("pow.Tensor_Scalar")
def _pow(lowering: Lowering, a: Value, exponent: Number) -> Value:
    def make(x: Expr, e: Expr) -> Expr:
        if exponent == 2:
            return op("mul", x, x)
        if exponent == 1:
            return x
        if exponent == 3:
            return op("mul", op("mul", x, x), x)
        if exponent == 0.5:
            return op("sqrt", x)
        if exponent == -1:
            return op("reciprocal", x)
        if exponent == -0.5:
            return op("rsqrt", x)
        if exponent == 0:
            return const(1, x)
        return op("pow", x, e)

    return lowering.pointwise(make, a, exponent, kind="BOOL_TO_LONG")


@lowers("square.default")
def _square(lowering: Lowering, a: Value) -> Value:
    return lowering.pointwise(lambda x: op("mul", x, x), a)


@lowers("_to_copy.default", "to.dtype", "_to_copy.out")
def _to(lowering: Lowering, a: Value, dtype: str | None = None, **_: Any) -> Value:
    target = dtype or a.dtype
    return a if target == a.dtype else lowering.point(a.shape, target, lambda i: cast(a.at(i), target))


@lowers("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def _where(lowering: Lowering, c: Value, a: Value | Number, b: Value | Number) -> Value:
    _, dtype = lowering.promoted(a, b, kind="NO_OPMATH")
    shape = torch.broadcast_shapes(*(v.shape for v in (c, a, b) if isinstance(v, Value)))
    x, y = lowering.scalar(a, dtype), lowering.scalar(b, dtype)
    return lowering.point(shape, dtype, lambda i: where(cast(c.broadcast(i), "bool"), x(i), y(i)))


@lowers("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(lowering: Lowering, a: Value, mask: Value, fill: Value | Number) -> Value:
    shape = torch.broadcast_shapes(a.shape, mask.shape)
    value = lowering.scalar(fill, a.dtype)
    return lowering.point(shape, a.dtype, lambda i: where(mask.broadcast(i), value(i), a.broadcast(i)))


@lowers("clamp.default", "clamp.Tensor", "clamp_min.default", "clamp_max.default", "hardtanh.default",
        "clamp_min.Tensor", "clamp_max.Tensor")  # fmt: skip
def _clamp(lowering: Lowering, a: Value, *bounds: Any, **named: Any) -> Value:
    name = lowering.node.op if lowering.node is not None else ""
    low, high = (*bounds, None, None)[:2]
    if "clamp_max" in name:
        low, high = None, low
    if "hardtanh" in name:
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    low, high = named.get("min", low), named.get("max", high)
    given = [b for b in (low, high) if b is not None]

    def make(x: Expr, *limits: Expr) -> Expr:
        rest = list(limits)
        if low is not None:
            x = op("max", x, rest.pop(0))
        if high is not None:
            x = op("min", x, rest.pop(0))
        return x

    return lowering.pointwise(make, a, *given)


# --- activations: each computed in the opmath type and rounded once, as ATen's kernels do -----------------


_register("silu.default", lambda x: op("div", x, op("add", const(1, x), op("exp", op("neg", x)))), "DEFAULT")
_register("relu6.default", lambda x: op("min", op("max", x, const(0, x)), const(6, x)), "DEFAULT")
_register(
    "hardsigmoid.default",
    lambda x: op(
        "div", op("min", op("max", op("add", x, const(3, x)), const(0, x)), const(6, x)), const(6, x)
    ),
    "DEFAULT",
)
_register(
    "hardswish.default",
    lambda x: op(
        "div",
        op("mul", x, op("min", op("max", op("add", x, const(3, x)), const(0, x)), const(6, x))),
        const(6, x),
    ),
    "DEFAULT",
)
_register("softsign.default", lambda x: op("div", x, op("add", const(1, x), op("abs", x))), "DEFAULT")


def _softplus(x: Expr, beta: Number = 1, threshold: Number = 20) -> Expr:
    scaled = x if beta == 1 else op("mul", x, const(beta, x))
    soft = op("log1p", op("exp", scaled))
    return where(
        test("gt", scaled, const(threshold, x)), x, soft if beta == 1 else op("div", soft, const(beta, x))
    )


@lowers("softplus.default")
def _softplus_rule(lowering: Lowering, a: Value, beta: Number = 1, threshold: Number = 20) -> Value:
    return lowering.pointwise(lambda x: _softplus(x, beta, threshold), a)


@lowers("mish.default")
def _mish(lowering: Lowering, a: Value) -> Value:
    """x tanh(softplus(x)): with ``w = e^x (e^x + 2)``, the hyperbolic tangent of log(1 + e^x) is w / (w + 2),
    which loses no digits and is 1 in float64 from x = 20 on."""

    def make(x: Expr) -> Expr:
        e = op("exp", op("min", x, const(20, x)))
        w = op("mul", e, op("add", e, const(2, x)))
        return op("mul", x, op("div", w, op("add", w, const(2, x))))

    return lowering.pointwise(make, a)


@lowers("log_sigmoid_forward.default")
def _log_sigmoid(lowering: Lowering, a: Value) -> tuple[Value, None]:
    return (
        lowering.pointwise(
            lambda x: op("sub", op("min", x, const(0, x)), op("log1p", op("exp", op("neg", op("abs", x))))), a
        ),
        None,
    )


@lowers("gelu.default")
def _gelu(lowering: Lowering, a: Value, approximate: str = "none") -> Value:
    def make(x: Expr) -> Expr:
        half = op("mul", const(0.5, x), x)
        if approximate == "tanh":
            cubed = op("mul", op("mul", x, x), x)
            inner = op(
                "mul", const(math.sqrt(2 / math.pi), x), op("add", x, op("mul", const(0.044715, x), cubed))
            )
            return op("mul", half, op("add", const(1, x), op("tanh", inner)))
        return op("mul", half, op("add", const(1, x), op("erf", op("mul", x, const(math.sqrt(0.5), x)))))

    return lowering.pointwise(make, a)


@lowers("leaky_relu.default")
def _leaky_relu(lowering: Lowering, a: Value, slope: Number = 0.01) -> Value:
    return lowering.pointwise(
        lambda x: where(test("gt", x, const(0, x)), x, op("mul", x, const(slope, x))), a
    )


@lowers("elu.default")
def _elu(
    lowering: Lowering, a: Value, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1
) -> Value:
    def make(x: Expr) -> Expr:
        negative = op("mul", const(alpha * scale, x), op("expm1", op("mul", x, const(input_scale, x))))
        return where(test("gt", x, const(0, x)), op("mul", x, const(scale, x)), negative)

    return lowering.pointwise(make, a)


@lowers("threshold.default")
def _threshold(lowering: Lowering, a: Value, threshold: Number, value: Number) -> Value:
    return lowering.pointwise(lambda x: where(test("le", x, const(threshold, x)), const(value, x), x), a)


@lowers("prelu.default", "_prelu_kernel.default")
def _prelu(lowering: Lowering, a: Value, weight: Value) -> Value:
    if lowering.node is not None and "_prelu_kernel" not in lowering.node.op and len(a.shape) > 1:
        shape = (1, weight.shape[0], *([1] * (len(a.shape) - 2)))
        inner = weight
        weight = lowering.view(inner, shape, lambda i: (i[1],))
    return lowering.pointwise(lambda x, w: where(test("gt", x, const(0, x)), x, op("mul", w, x)), a, weight)


@lowers("lerp.Scalar", "lerp.Tensor")
def _lerp(lowering: Lowering, a: Value, b: Value, w: Value | Number) -> Value:
    def make(x: Expr, y: Expr, t: Expr) -> Expr:
        near = op("add", x, op("mul", t, op("sub", y, x)))
        far = op("sub", y, op("mul", op("sub", y, x), op("sub", const(1, x), t)))
        return where(test("lt", op("abs", t), const(0.5, x)), near, far)

    return lowering.pointwise(make, a, b, w)


@lowers("addcmul.default", "addcdiv.default")
def _addc(lowering: Lowering, a: Value, b: Value, c: Value, value: Number = 1) -> Value:
    name = "div" if lowering.node is not None and "addcdiv" in lowering.node.op else "mul"

    def make(x: Expr, y: Expr, z: Expr) -> Expr:
        y = y if value == 1 else op("mul", const(value, y), y)
        return op("add", x, op(name, y, z))

    return lowering.pointwise(make, a, b, c)


@lowers("nan_to_num.default")
def _nan_to_num(
    lowering: Lowering,
    a: Value,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Value:
    if a.dtype not in FLOATS:
        return a
    limit = torch.finfo(getattr(torch, a.dtype)).max

    def make(x: Expr) -> Expr:
        top = const(limit if posinf is None else posinf, x)
        bottom = const(-limit if neginf is None else neginf, x)
        x_ = where(test("eq", x, const(math.inf, x)), top, x)
        x_ = where(test("eq", x, const(-math.inf, x)), bottom, x_)
        return where(test("isnan", x), const(0 if nan is None else nan, x), x_)

    return lowering.pointwise(make, a)
