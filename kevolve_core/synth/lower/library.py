"""Library calls: the matrix products, and the fallback for every operator without a lowering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kevolve_core.synth.graph import Node
from kevolve_core.synth.lower.core import Lowering, Number, Value, lowers
from kevolve_core.synth.lower.pointwise import const, op

__all__ = ["opaque"]

#: Views that only set a flag of the tensor -> the operator that computes: a buffer holds values, not flags.
_COMPUTED = {"_conj": "_conj_physical", "_neg_view": "neg"}


@lowers("mm.default", "bmm.default")
def _mm(lowering: Lowering, a: Value, b: Value) -> Any:
    node = lowering.node
    assert node is not None
    name = node.op.split(".")[1]
    return lowering.library(f"aten::{name}", {"self": a, "mat2": b}, node)


@lowers("addmm.default", "baddbmm.default")
def _addmm(lowering: Lowering, bias: Value, a: Value, b: Value, beta: Number = 1, alpha: Number = 1) -> Any:
    """In float32 and float64 the product alone is the library's; the bias joins the epilogue. In half
    precision the library rounds once after adding, so it does both."""
    node = lowering.node
    assert node is not None
    name = node.op.split(".")[1]
    product = name.removeprefix("add") if name == "addmm" else "bmm"
    if a.dtype not in {"float32", "float64"}:
        first, second = ("mat1", "mat2") if name == "addmm" else ("batch1", "batch2")
        scales = {k: v for k, v in (("beta", beta), ("alpha", alpha)) if v != 1}
        return lowering.library(f"aten::{name}", {"self": bias, first: a, second: b, **scales}, node)
    found = lowering.library(f"aten::{product}", {"self": a, "mat2": b}, node)
    assert isinstance(found, Value)

    def make(i: Any) -> Any:
        x, y = found.at(i), bias.broadcast(i)
        x = x if alpha == 1 else op("mul", x, const(alpha, x))
        y = y if beta == 1 else op("mul", y, const(beta, y))
        return x if beta == 0 else op("add", x, y)

    return lowering.point(found.shape, found.dtype, make, "bias")


@lowers("mv.default")
def _mv(lowering: Lowering, a: Value, b: Value) -> Value:
    product = lowering.point(a.shape, a.dtype, lambda i: op("mul", a.at(i), b.at((i[1],))), "product")
    return _summed(lowering, product)


@lowers("dot.default", "vdot.default")
def _dot(lowering: Lowering, a: Value, b: Value) -> Value:
    product = lowering.point(a.shape, a.dtype, lambda i: op("mul", a.at(i), b.at(i)), "product")
    return _summed(lowering, product)


def _summed(lowering: Lowering, product: Value) -> Value:
    from kevolve_core.synth.lower.core import accumulator

    acc = accumulator(product.dtype)
    total = lowering.reduce(product, (len(product.shape) - 1,), "sum", acc, accumulate=acc, suffix="sum")
    return total if acc == product.dtype else lowering.point(total.shape, product.dtype, total.at)


def opaque(lowering: Lowering, node: Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Any ATen operator as a library call: it has no lowering, so the target's library runs it.

    Raises:
        UnsupportedError: it draws random numbers, mutates, or has results that are not tensors.
    """
    import torch

    if not node.op.startswith("aten."):
        raise lowering.unsupported("this operator has no lowering and is not in PyTorch's library")
    _, packet, overload = node.op.split(".")
    packet = _COMPUTED.get(packet, packet)
    schema = getattr(getattr(torch.ops.aten, packet), overload)._schema
    if (
        schema.is_mutable
        or not node.type
        or node.op.startswith(("aten.rand", "aten.bernoulli", "aten.normal"))
    ):
        raise lowering.unsupported("this operator mutates, draws random numbers or returns no tensor")
    named = {a.name: v for a, v in zip(schema.arguments, args, strict=False)}
    named.update(kwargs)
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given = {k: v for k, v in named.items() if not (k in defaults and _plainly_equal(defaults[k], v))}
    suffix = "" if overload == "default" else f".{overload}"
    return lowering.library(f"aten::{packet}{suffix}", given, node)


def _plainly_equal(default: Any, value: Any) -> bool:
    if isinstance(value, Value) or (isinstance(default, float) and math.isnan(default)):
        return False
    if isinstance(value, (list, tuple)):
        return isinstance(default, (list, tuple)) and list(default) == list(value)
    return type(default) is type(value) and bool(default == value)
