"""Stores whose place comes from data: scatter and index updates, and sorting by rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kevolve_core.ir import Expr, Op
from kevolve_core.synth.index import ZERO, integer
from kevolve_core.synth.lower.core import DeclinedError, Lowering, Number, Value, cast, lowers, wide
from kevolve_core.synth.lower.gather import position
from kevolve_core.synth.lower.pointwise import FLOATS, const, op, test, where
from kevolve_core.synth.lower.reductions import rounded

__all__: list[str] = []

_ADDED = FLOATS | {"int32", "int64"}  # what memory can be added to at once by many
#: Elements a row that are sorted by comparing all with all. In C++ on one core, rows of 32, 64 and 128 took
#: 0.9, 1.3 and 2.0 times as long as torch.sort, and 1.3, 2.7 and 6.7 times as long as torch.topk's first 8.
_RANKED, _RANKED_FIRST = 64, 48


def _accumulated(dtype: str, mode: str) -> str:
    """The dtype of memory that is combined by ``mode``; half precision is added in float32."""
    if mode == "set":
        return dtype
    if dtype not in _ADDED:
        raise DeclinedError
    return wide(dtype)


def _put(lowering: Lowering, x: Value, dim: int, index: Value, source: Value | Number, mode: str) -> Value:
    """``x`` with an element of ``source`` for each of ``index``, along ``dim``."""
    dtype = _accumulated(x.dtype, mode)
    if not x.shape or not index.shape:
        raise DeclinedError
    d = dim % len(x.shape)
    at = position(lowering, index, x.shape[d], wrap=False)
    given = lowering.scalar(source, dtype) if not isinstance(source, Value) else None

    def value(i: tuple[Expr, ...]) -> Expr:
        if given is not None:
            return given(i)
        assert isinstance(source, Value)
        return cast(source.load(i), dtype)

    found = lowering.scatter(
        x, x.shape, dtype, index.shape, lambda i: (*i[:d], at.at(i), *i[d + 1 :]), value, mode
    )
    return rounded(lowering, found, x.dtype)


@lowers("scatter.src", "scatter.value", "scatter_add.default")
def _scatter(lowering: Lowering, x: Value, dim: int, index: Value, source: Value | Number) -> Value:
    added = lowering.node is not None and "scatter_add" in lowering.node.op
    return _put(lowering, x, dim, index, source, "add" if added else "set")


@lowers("scatter_reduce.two")
def _scatter_reduce(
    lowering: Lowering, x: Value, dim: int, index: Value, source: Value, reduce: str, *,
    include_self: bool = True,
) -> Value:  # fmt: skip
    mode = {"sum": "add", "amax": "max", "amin": "min", "mean": "add"}.get(reduce)
    if mode is None or not include_self:
        raise DeclinedError
    if reduce != "mean":
        return _put(lowering, x, dim, index, source, mode)
    if x.dtype not in FLOATS:
        raise DeclinedError
    total = _put(lowering, x, dim, index, source, mode)
    count = _put(lowering, lowering.full(x.shape, 1.0, x.dtype), dim, index, 1.0, mode)
    return lowering.pointwise(lambda a, b: op("div", a, b), total, count)


@lowers("index_add.default")
def _index_add(
    lowering: Lowering, x: Value, dim: int, index: Value, source: Value, *, alpha: Number = 1
) -> Value:
    dtype = _accumulated(x.dtype, "add")
    if not x.shape or len(index.shape) != 1:
        raise DeclinedError
    d = dim % len(x.shape)
    at = position(lowering, index, x.shape[d], wrap=False)

    def value(i: tuple[Expr, ...]) -> Expr:
        e = cast(source.at(i), dtype)
        return e if alpha == 1 else op("mul", e, const(alpha, e))

    found = lowering.scatter(
        x, x.shape, dtype, source.shape, lambda i: (*i[:d], at.at((i[d],)), *i[d + 1 :]), value, "add"
    )
    return rounded(lowering, found, x.dtype)


@lowers("index_put.default", "_unsafe_index_put.default")
def _index_put(
    lowering: Lowering, x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    given = [(d, v) for d, v in enumerate(indices) if v is not None]
    if any(v.dtype in {"bool", "uint8"} for _, v in given):
        return _masked_put(lowering, x, given, values, accumulate)
    mode = "add" if accumulate else "set"
    dtype = _accumulated(x.dtype, mode)
    common = torch.broadcast_shapes(*(v.shape for _, v in given))
    dims = [d for d, _ in given]
    lead = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    rank = len(common)
    at = {d: position(lowering, v, x.shape[d], wrap=True) for d, v in given}
    rest = [x.shape[d] for d in range(len(x.shape)) if d not in at]
    points = (*rest[:lead], *common, *rest[lead:])

    def place(i: tuple[Expr, ...]) -> tuple[Expr, ...]:
        inner = i[lead : lead + rank]
        outer = iter((*i[:lead], *i[lead + rank :]))
        return tuple(at[d].broadcast(inner) if d in at else next(outer) for d in range(len(x.shape)))

    def value(i: tuple[Expr, ...]) -> Expr:
        return cast(values.broadcast(i), dtype)

    return rounded(lowering, lowering.scatter(x, x.shape, dtype, points, place, value, mode), x.dtype)


def _masked_put(
    lowering: Lowering, x: Value, given: Sequence[tuple[int, Value]], values: Value, accumulate: bool
) -> Value:
    """One value wherever a mask over the leading dimensions holds."""
    if len(given) != 1 or given[0][0] != 0 or math.prod(values.shape) != 1 or given[0][1].dtype != "bool":
        raise DeclinedError
    mask = given[0][1]

    def make(i: tuple[Expr, ...]) -> Expr:
        old = x.at(i)
        new = cast(values.at([ZERO] * len(values.shape)), x.dtype)
        return where(mask.at(i[: len(mask.shape)]), op("add", old, new) if accumulate else new, old)

    return lowering.point(x.shape, x.dtype, make)


# --- order ----------------------------------------------------------------------------------------------


def _before(a: Expr, b: Expr, descending: bool) -> Expr:
    """Whether ``a`` is sorted before ``b``; NaN counts as the largest."""
    found = test("gt" if descending else "lt", a, b)
    if a.dtype not in FLOATS:
        return found
    first, second = (a, b) if descending else (b, a)
    odd = Op(
        "logical_and", (test("isnan", first), Op("logical_not", (test("isnan", second),), "bool")), "bool"
    )
    return Op("logical_or", (found, odd), "bool")


def _ranks(lowering: Lowering, x: Value, d: int, descending: bool) -> Value:
    """How many elements of its row come before each, equal ones in their order."""
    n = x.shape[d]

    def make(i: tuple[Expr, ...]) -> Expr:
        mine = x.at(i[:-1])
        other = x.at((*i[:d], i[-1], *i[d + 1 : -1]))
        equal = Op(
            "logical_not",
            (Op("logical_or", (_before(other, mine, descending), _before(mine, other, descending)), "bool"),),
            "bool",
        )
        earlier = Op("logical_and", (equal, test("lt", i[-1], i[d])), "bool")
        return cast(Op("logical_or", (_before(other, mine, descending), earlier), "bool"), "int32")

    pairs = lowering.point((*x.shape, n), "int32", make, "before")
    last = len(x.shape)
    return lowering.reduce(pairs, (last,), "sum", "int32", accumulate="int32", suffix="rank")


def _sorted(
    lowering: Lowering, x: Value, dim: int, descending: bool, most: int = _RANKED
) -> tuple[Value, Value]:
    """(values, positions they had), stable; rows of more than ``most`` are left to the library."""
    if not x.shape or x.dtype == "bool":
        raise DeclinedError
    d = dim % len(x.shape)
    if x.shape[d] > most or x.shape[d] < 2:
        raise DeclinedError
    ranks = _ranks(lowering, x, d, descending)

    def place(i: tuple[Expr, ...]) -> tuple[Expr, ...]:
        e = cast(ranks.at(i), "int64")
        lowering.ix.ranges[e] = (0, x.shape[d] - 1)
        return (*i[:d], e, *i[d + 1 :])

    values = lowering.scatter(None, x.shape, x.dtype, x.shape, place, x.at)
    index = lowering.scatter(None, x.shape, "int64", x.shape, place, lambda i: i[d])
    return values, index


def _values_only(lowering: Lowering) -> bool:
    """Whether nobody reads the positions: which of equal elements comes first is the library's own."""
    node = lowering.node
    return node is not None and lowering.read.get(node.name, {1}) == {0}


@lowers("sort.default")
def _sort(lowering: Lowering, x: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    if not _values_only(lowering):
        raise DeclinedError
    return _sorted(lowering, x, dim, descending)


@lowers("sort.stable")
def _stable_sort(
    lowering: Lowering, x: Value, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Value, Value]:
    if not stable and not _values_only(lowering):
        raise DeclinedError
    return _sorted(lowering, x, dim, descending)


@lowers("topk.default")
def _topk(
    lowering: Lowering, x: Value, k: int, dim: int = -1, largest: bool = True, ordered: bool = True
) -> tuple[Value, Value]:
    del ordered
    if not _values_only(lowering):
        raise DeclinedError
    values, index = _sorted(lowering, x, dim, largest, _RANKED_FIRST)
    d = dim % len(x.shape)
    shape = (*x.shape[:d], k, *x.shape[d + 1 :])
    return lowering.view(values, shape, lambda i: i), lowering.view(index, shape, lambda i: i)


@lowers("kthvalue.default")
def _kthvalue(
    lowering: Lowering, x: Value, k: int, dim: int = -1, keepdim: bool = False
) -> tuple[Value, Value]:
    if not _values_only(lowering):
        raise DeclinedError
    values, index = _sorted(lowering, x, dim, False, _RANKED_FIRST)
    d = dim % len(x.shape)
    shape = (*x.shape[:d], *([1] if keepdim else []), *x.shape[d + 1 :])

    def at(i: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (*i[:d], integer(k - 1), *i[d + 1 if keepdim else d :])

    return lowering.view(values, shape, at), lowering.view(index, shape, at)
