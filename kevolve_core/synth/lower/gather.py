"""Lookups: loads whose index comes from data, and searches in sorted rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from kevolve_core.ir import Const, Expr
from kevolve_core.synth.index import ZERO
from kevolve_core.synth.lower.core import Lowering, Number, Value, cast, lowers
from kevolve_core.synth.lower.pointwise import op, test, where
from kevolve_core.synth.lower.views import _unsqueeze

__all__: list[str] = []


def position(lowering: Lowering, index: Value, n: int, wrap: bool) -> Value:
    """``index`` as int64 positions in [0, n); negative ones count from the end where ``wrap``."""

    def make(i: tuple[Expr, ...]) -> Expr:
        e = cast(index.at(i), "int64")
        if not wrap:
            return e
        return where(test("lt", e, ZERO), op("add", e, Const(n, "int64")), e)

    found = lowering.point(index.shape, "int64", make, "index")

    def load(i: tuple[Expr, ...]) -> Expr:
        if n == 1:
            return ZERO
        e = found.at(i)
        lowering.ix.ranges[e] = (0, n - 1)
        return e

    return Value(index.shape, "int64", load)


@lowers("gather.default", "take_along_dim.default")
def _gather(lowering: Lowering, x: Value, dim: int, index: Value, **_: Any) -> Value:
    if not x.shape:
        return x
    d = dim % len(x.shape)
    at = position(lowering, index, x.shape[d], wrap=False)
    return lowering.point(index.shape, x.dtype, lambda i: x.load((*i[:d], at.at(i), *i[d + 1 :])))


@lowers("index_select.default")
def _index_select(lowering: Lowering, x: Value, dim: int, index: Value) -> Value:
    d = dim % len(x.shape)
    at = position(lowering, index, x.shape[d], wrap=False)
    n = math.prod(index.shape)
    shape = (*x.shape[:d], n, *x.shape[d + 1 :])
    return lowering.point(
        shape, x.dtype, lambda i: x.at((*i[:d], at.at((i[d],) if index.shape else ()), *i[d + 1 :]))
    )


@lowers("embedding.default")
def _embedding(lowering: Lowering, weight: Value, index: Value, *_: Any, **__: Any) -> Value:
    at = position(lowering, index, weight.shape[0], wrap=False)
    rank = len(index.shape)
    return lowering.point(
        (*index.shape, *weight.shape[1:]), weight.dtype, lambda i: weight.at((at.at(i[:rank]), *i[rank:]))
    )


@lowers("index.Tensor", "_unsafe_index.Tensor")
def _index(lowering: Lowering, x: Value, indices: Sequence[Value | None]) -> Value:
    given = [(d, v) for d, v in enumerate(indices) if v is not None]
    if any(v.dtype in {"bool", "uint8"} for _, v in given):
        raise lowering.unsupported("indexing by a mask has no static shape")
    common = torch.broadcast_shapes(*(v.shape for _, v in given))
    dims = [d for d, _ in given]
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    lead = dims[0] if together else 0  # where ATen puts the indexed dimensions
    rank = len(common)
    at = {d: position(lowering, v, x.shape[d], wrap=True) for d, v in given}
    rest = [d for d in range(len(x.shape)) if d not in at]
    shape = [x.shape[d] for d in rest]
    full = (*shape[:lead], *common, *shape[lead:])

    def make(i: tuple[Expr, ...]) -> Expr:
        inner = i[lead : lead + rank]
        outer = iter((*i[:lead], *i[lead + rank :]))
        return x.at([at[d].broadcast(inner) if d in at else next(outer) for d in range(len(x.shape))])

    return lowering.point(full, x.dtype, make)


@lowers("take.default")
def _take(lowering: Lowering, x: Value, index: Value) -> Value:
    at = position(lowering, index, math.prod(x.shape), wrap=True)
    return lowering.point(index.shape, x.dtype, lambda i: x.at(lowering.ix.unravel(at.at(i), x.shape)))


@lowers("searchsorted.Tensor", "searchsorted.Scalar")
def _searchsorted(
    lowering: Lowering, rows: Value, values: Value | Number, *, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Value | None = None,
) -> Value:  # fmt: skip
    if sorter is not None:
        raise lowering.unsupported("searchsorted with a sorter")
    return _searched(lowering, rows, values, right or side == "right", out_int32)


@lowers("bucketize.Tensor", "bucketize.Scalar")
def _bucketize(
    lowering: Lowering, values: Value | Number, rows: Value, *, out_int32: bool = False, right: bool = False
) -> Value:
    return _searched(lowering, rows, values, right, out_int32)


def _searched(lowering: Lowering, rows: Value, values: Value | Number, right: bool, narrow: bool) -> Value:
    args = [rows, values]
    compute, _ = lowering.promoted(*args, kind="NO_OPMATH")
    if rows.dtype != compute:
        inner = rows
        rows = lowering.point(inner.shape, compute, inner.at, "sorted")
    shape = values.shape if isinstance(values, Value) else ()
    return lowering.search(
        rows,
        lowering.scalar(values, compute),
        shape,
        lambda i: i[:-1] if len(rows.shape) > 1 else (),
        right,
        "int32" if narrow else "int64",
    )


@lowers("one_hot.default")
def _one_hot(lowering: Lowering, x: Value, classes: int = -1) -> Value:
    del classes
    node = lowering.node
    assert node is not None
    wide_ = _unsqueeze(lowering, x, -1)
    return lowering.point(
        node.tensor.shape,
        "int64",
        lambda i: cast(test("eq", cast(wide_.broadcast((*i[:-1], ZERO)), "int64"), i[-1]), "int64"),
    )
