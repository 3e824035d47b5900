"""Pointwise operators against eager PyTorch, on ragged shapes and several dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

UNARY = [
    "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan",
    "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "atanh", "erf", "erfc", "lgamma",
    "reciprocal", "sigmoid", "neg", "abs", "sign", "relu", "floor", "ceil", "round", "trunc", "isnan",
    "isinf", "isfinite", "square", "frac", "logical_not",
]  # fmt: skip
BINARY = [
    "add", "sub", "mul", "div", "remainder", "fmod", "pow", "maximum", "minimum", "atan2", "hypot",
    "copysign", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor",
    "floor_divide",
]  # fmt: skip
ACTIVATIONS = [
    "silu", "gelu", "mish", "relu6", "hardsigmoid", "hardswish", "softsign", "softplus", "elu", "selu",
    "celu", "leaky_relu", "logsigmoid", "tanhshrink", "hardtanh", "softshrink", "hardshrink",
]  # fmt: skip
HALVES = [torch.float16, torch.bfloat16]


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values in (0, 1), where every function here is defined."""
    return (torch.rand(shape) * 0.9 + 0.05).to(dtype)


@pytest.mark.parametrize("name", UNARY)
def test_unary(check: Any, name: str) -> None:
    check(getattr(torch, name), [unit(5, 7)])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["exp", "sigmoid", "sqrt", "tanh", "neg", "floor", "log1p"])
def test_unary_in_half_precision_rounds_once(check: Any, name: str, dtype: torch.dtype) -> None:
    check(getattr(torch, name), [unit(3, 5, dtype=dtype)])


@pytest.mark.parametrize(
    "name", ["sqrt", "exp", "neg", "abs", "sign", "floor", "bitwise_not", "square", "sigmoid"]
)
def test_unary_of_integers(check: Any, name: str) -> None:
    check(getattr(torch, name), [torch.randint(0, 6, (5, 3))])


@pytest.mark.parametrize("name", BINARY)
def test_binary(check: Any, name: str) -> None:
    check(getattr(torch, name), [unit(5, 7), torch.randn(5, 7)])


@pytest.mark.slow
@pytest.mark.parametrize("name", BINARY)
def test_binary_with_broadcasting(check: Any, name: str) -> None:
    check(getattr(torch, name), [unit(4, 1, 7), torch.randn(3, 1)])


@pytest.mark.parametrize("name", ["add", "div", "pow", "remainder", "maximum", "atan2", "lt", "logical_and"])
def test_binary_promotes_integers_to_floats(check: Any, name: str) -> None:
    check(getattr(torch, name), [torch.randint(1, 5, (5, 7)), torch.randn(5, 7)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in BINARY if n not in {"div", "atan2", "hypot", "copysign"}])
def test_binary_of_integers(check: Any, name: str) -> None:
    check(getattr(torch, name), [torch.randint(0, 9, (5, 7)), torch.randint(1, 4, (5, 7))])


@pytest.mark.parametrize("mode", ["floor", "trunc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_rounded_division(check: Any, mode: str, dtype: torch.dtype) -> None:
    a = torch.randint(-50, 50, (5, 7)).to(dtype)
    b = torch.tensor([-7, -3, -2, 2, 3, 5, 11]).to(dtype)
    check(lambda x, y: torch.div(x, y, rounding_mode=mode), [a, b])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_activation(check: Any, name: str, dtype: torch.dtype) -> None:
    check(getattr(F, name), [(torch.randn(5, 7) * 4).to(dtype)])


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float64", "int32", "int64", "bool", "uint8"])
def test_conversion(check: Any, target: str) -> None:
    check(lambda x: x.to(getattr(torch, target)), [torch.rand(5, 7) * 9])


COMPOSITIONS: dict[str, Callable[..., Any]] = {
    "scalars": lambda x, y: (2 - x) * 3 + x**2 - x**3 / 1.5 + x**0.5 * 2 + 1 / x + 2**x + y,
    "alpha": lambda x, y: torch.add(x, y, alpha=2) - torch.sub(x, y, alpha=3),
    "bool_add": lambda x, y: (x > 0.5) + (y > 0),
    "bool_bits": lambda x, y: ~((x > 0.5) & (y > 0)) ^ (y > 1) | (x > 0.9),
    "bool_mul": lambda x, y: (x > 0.5) * y,
    "where": lambda x, y: torch.where(x > 0.5, x, y),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, -1e9),
    "clamp": lambda x, y: x.clamp(0.2, 0.7) + y.clamp(min=0),
    "clamp_by_tensor": lambda x, y: torch.clamp(x, min=y),
    "lerp": lambda x, y: torch.lerp(x, y, x),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, x + 5),
    "gelu_tanh": lambda x, y: F.gelu(x + y, approximate="tanh"),
    "glu": lambda x, y: F.glu(torch.cat([x, y], 1), 1),
    "threshold": lambda x, y: F.threshold(x + y, 0.1, 20.0),
    "shifts": lambda x, y: ((x + y).long() << 3) >> 1,
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition(check: Any, name: str) -> None:
    check(COMPOSITIONS[name], [unit(5, 7), torch.randn(5, 7)])


def test_infinities_and_nan_are_replaced(check: Any) -> None:
    check(torch.nan_to_num, [torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])])


def test_nan_propagates_through_max(check: Any) -> None:
    check(torch.maximum, [torch.tensor([1.0, float("nan")]), torch.tensor([float("nan"), 2.0])])


def test_a_chain_in_half_precision_keeps_the_rounding_of_every_operator(check: Any) -> None:
    check(lambda x, y: (x * y + x) * y - x, [torch.randn(5, 7).half(), torch.randn(5, 7).half()])


def test_a_pointwise_chain_is_one_flat_loop(check: Any) -> None:
    program = check(lambda x, y: torch.relu(x * 2 + y) * x, [torch.randn(4, 6, 5), torch.randn(4, 6, 5)])
    (nest,) = program.nests()
    assert [(a.extent, nest.outer) for a in nest.axes] == [(120, 1)]


def test_a_broadcast_bias_keeps_its_dimension_apart(check: Any) -> None:
    program = check(lambda x, b: x + b, [torch.randn(4, 6, 5), torch.randn(5)])
    (nest,) = program.nests()
    assert [a.extent for a in nest.axes] == [24, 5]
    assert nest.outer == 1


def test_a_python_scalar_argument_is_baked_in(check: Any) -> None:
    program = check(lambda x, s: x * s, [torch.randn(3), 2.5])
    assert [b.source for b in program.inputs()] == ["0"]
