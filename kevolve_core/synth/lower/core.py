"""What lowering functions build: definitions over index space, and the table they register in.

A `Def` says what every element of a tensor is, as an expression over the tensor's own index. A `Value` is a
lowered tensor: something that can be loaded at an index. Views are values without a definition of their own:
they only rewrite the index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from attrs import evolve, field, frozen
from torch._prims_common import ELEMENTWISE_TYPE_PROMOTION_KIND, elementwise_dtypes

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Const, Expr, Index, Load, Op, walk
from kevolve_core.synth.graph import Node
from kevolve_core.synth.index import ZERO, Indexer, linear

__all__ = [
    "Call", "DeclinedError", "Def", "Join", "Lowering", "Part", "Table", "Value", "accumulator", "cast",
    "lowers", "wide",
]  # fmt: skip

Loader = Callable[[tuple[Expr, ...]], Expr]
Number = int | float | bool

_FLOATS = frozenset(["float64", "float32", "float16", "bfloat16"])
_INTEGERS = frozenset(["int64", "int32", "int16", "int8", "uint8"])


class DeclinedError(Exception):
    """Raised by a rule for arguments that it leaves to the target's library."""


@frozen
class Part:
    """Definition ``name`` at positions ``start`` to ``start + size`` of a `Join`."""

    name: str
    start: int
    size: int


@frozen
class Join:
    """How a definition is put together along dimension ``dim`` from ``parts``, which have as many dimensions
    as it, in order and without those of no elements."""

    dim: int
    parts: tuple[Part, ...]


@frozen(eq=False)
class Call:
    """A library operator with its arguments: values where tensors go."""

    op: str
    args: dict[str, Any]


@frozen(eq=False)
class Def:
    """One tensor, defined elementwise.

    Args:
        name: unique in the lowering; the graph node's, with a suffix for helpers of it.
        shape, dtype: logical type.
        kind: ``input``, ``param``, ``constant`` (leaves); ``point``, ``reduce``, ``scan``, ``search``;
            ``scatter`` (starts as definition ``row``, then at every point of ``raxes`` ``value`` goes to
            ``row_index``, combined by ``combiner``: a store's mode; it has no axes of its own);
            ``library`` (result ``result`` of ``call``).
        axes: its own index, one expression a dimension: an axis, or 0 where the extent is 1.
        value: the element, over ``axes`` (and ``raxes``); loads name definitions and their logical index.
        raxes: axes consumed by a reduction; for a scan the one it runs along (which is also among ``axes``).
        node: the graph node it belongs to.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str
    axes: tuple[Expr, ...]
    value: Expr | None = None
    raxes: tuple[str, ...] = ()
    combiner: str = ""
    accumulate: str = ""
    exclusive: bool = False
    reverse: bool = False
    right: bool = False
    row: str = ""
    row_index: tuple[Expr, ...] = ()
    strides: tuple[int, ...] | None = None
    source: str = ""
    data: tuple[float | int | bool, ...] | None = None
    call: Call | None = None
    result: int = 0
    node: str = ""
    label: str = ""

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the axes of its own index."""
        return tuple(a.axis for a in self.axes if isinstance(a, Index))

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)


@frozen(eq=False)
class Value:
    """A lowered tensor. ``at(index)`` is its element; ``definition`` names the `Def` it is the whole of."""

    shape: tuple[int, ...]
    dtype: str
    load: Loader = field(repr=False)
    definition: str = ""

    def at(self, index: Sequence[Expr]) -> Expr:
        return self.load(tuple(ZERO if n == 1 else i for i, n in zip(index, self.shape, strict=True)))

    def broadcast(self, index: Sequence[Expr]) -> Expr:
        """The element at ``index`` of a shape this value broadcasts to."""
        return self.at(index[len(index) - len(self.shape) :])

    @property
    def meta(self) -> torch.Tensor:
        """A tensor of this type without data, for PyTorch's promotion rules."""
        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device="meta")


def wide(dtype: str) -> str:
    """The dtype pointwise arithmetic on ``dtype`` is done in (ATen's opmath type)."""
    return "float32" if dtype in {"float16", "bfloat16"} else dtype


def accumulator(dtype: str) -> str:
    """The dtype sums of ``dtype`` are accumulated in, as ATen does."""
    if dtype in _FLOATS:
        return wide(dtype)
    return "int64"


def cast(e: Expr, dtype: str) -> Expr:
    """``e`` converted to ``dtype``; literals at once."""
    if e.dtype == dtype:
        return e
    if isinstance(e, Const):
        if dtype == "bool":
            return Const(bool(e.value), dtype)
        if dtype in _FLOATS:
            return Const(float(e.value), dtype)
        if isinstance(e.value, (int, bool)):
            return Const(int(e.value), dtype)
    return Op("cast", (e,), dtype)


class Lowering:
    """Lowering of one graph: definitions so far, in order."""

    def __init__(self, windowed: Collection[str] = ()) -> None:
        self.windowed = frozenset(windowed)  # convolutions that are sums over windows
        self.ix = Indexer()
        self.defs: dict[str, Def] = {}
        self.stored: set[str] = set()  # pointwise definitions that are to lie in memory
        self.joins: dict[str, Join] = {}  # definitions that concatenate others
        self.node: Node | None = None
        self.read: dict[str, set[int]] = {}  # which results of nodes with several are read

    # --- making definitions ------------------------------------------------------------------------------

    def own_axes(self, shape: Sequence[int]) -> tuple[Expr, ...]:
        return tuple(ZERO if n == 1 else self.ix.axis(n) for n in shape)

    def add(self, definition: Def) -> Value:
        """Register ``definition`` (its name made unique) and return it as a value."""
        name, n = definition.name, 1
        while name in self.defs:
            n += 1
            name = f"{definition.name}_{n}"
        label = (
            self.node.op.split(".")[1] if self.node is not None and "." in self.node.op else definition.kind
        )
        self.defs[name] = evolve(
            definition, name=name, node=self.node.name if self.node else name, label=definition.label or label
        )
        return self.whole(name)

    def whole(self, name: str) -> Value:
        """The value that is definition ``name``."""
        d = self.defs[name]
        return Value(d.shape, d.dtype, lambda index: Load(name, index, d.dtype), name)

    def _name(self, suffix: str) -> str:
        base = self.node.name if self.node else "v"
        return f"{base}_{suffix}" if suffix else base

    def point(self, shape: Sequence[int], dtype: str, make: Loader, suffix: str = "") -> Value:
        """A pointwise definition: ``make(index)`` is its element, converted to ``dtype``."""
        axes = self.own_axes(shape)
        value = cast(make(axes), dtype)
        return self.add(Def(self._name(suffix), tuple(shape), dtype, "point", axes, value))

    def reduce(
        self,
        x: Value,
        dims: Sequence[int],
        combiner: str,
        dtype: str,
        *,
        keepdim: bool = False,
        accumulate: str = "",
        suffix: str = "",
    ) -> Value:
        """``combiner`` of ``x`` over ``dims`` (all where empty), accumulated in ``accumulate``."""
        over = sorted(set(dims)) if len(dims) else list(range(len(x.shape)))
        inside: list[Expr] = []
        outside: list[Expr] = []
        raxes: list[str] = []
        for d, n in enumerate(x.shape):
            e: Expr = ZERO if n == 1 else self.ix.axis(n)
            inside.append(e)
            if d in over:
                if isinstance(e, Index):
                    raxes.append(e.axis)
                if keepdim:
                    outside.append(ZERO)
            else:
                outside.append(e)
        shape = tuple(1 if d in over else n for d, n in enumerate(x.shape) if keepdim or d not in over)
        value = x.at(inside)
        accumulate = accumulate or dtype
        if combiner in {"sum", "prod"}:
            value = cast(value, accumulate)
        if combiner in {"any", "all"}:
            value = cast(value, "bool")
        if not raxes:  # one element: no loop
            value = ZERO if combiner in {"argmax", "argmin"} else value
            return self.add(
                Def(self._name(suffix), shape, dtype, "point", tuple(outside), cast(value, dtype))
            )
        return self.add(
            Def(
                self._name(suffix),
                shape,
                dtype,
                "reduce",
                tuple(outside),
                value,
                tuple(raxes),
                combiner,
                accumulate,
            )
        )

    def search(
        self,
        rows: Value,
        value: Loader,
        shape: Sequence[int],
        row_index: Callable[[tuple[Expr, ...]], tuple[Expr, ...]],
        right: bool,
        dtype: str,
    ) -> Value:
        """Insertion positions of ``value(index)`` in the row of ``rows`` at ``row_index(index)``."""
        name, place = self._row(rows)
        axes = self.own_axes(shape)
        found = self.add(
            Def(
                self._name("found"), tuple(shape), "int64", "search", axes, value(axes),
                right=right, row=name, row_index=place(row_index(axes)),
            )
        )  # fmt: skip
        return found if dtype == "int64" else self.point(shape, dtype, found.at)

    def scatter(
        self,
        start: Value | None,
        shape: Sequence[int],
        dtype: str,
        points: Sequence[int],
        place: Callable[[tuple[Expr, ...]], tuple[Expr, ...]],
        value: Loader,
        mode: str = "set",
    ) -> Value:
        """``start`` (None: every element is written) with ``value(i)`` put at ``place(i)`` for every ``i`` of
        the shape ``points``; ``mode`` is a store's."""
        row = ""
        if start is not None:
            row = self.point(shape, dtype, lambda i: cast(start.broadcast(i), dtype), "start").definition
        axes = self.own_axes(points)
        at = tuple(ZERO if n == 1 else e for n, e in zip(shape, place(axes), strict=True))
        return self.add(
            Def(
                self._name("scattered"), tuple(shape), dtype, "scatter", (), cast(value(axes), dtype),
                tuple(a.axis for a in axes if isinstance(a, Index)), mode, row=row, row_index=at,
            )
        )  # fmt: skip

    def _row(self, rows: Value) -> tuple[str, Callable[[tuple[Expr, ...]], tuple[Expr, ...]]]:
        """The definition that ``rows`` lie in, and its row of a row of theirs; a copy where they are no
        rows of any definition."""
        probe = self.own_axes(rows.shape)
        load = rows.at(probe)
        if isinstance(load, Load) and load.mask is None and load.index and load.index[-1] == probe[-1]:
            inner = load.index[:-1]
            whole = self.defs[load.buffer].shape[-1] == rows.shape[-1]
            if whole and not any(probe[-1] in set(walk(e)) for e in inner):

                def place(index: tuple[Expr, ...]) -> tuple[Expr, ...]:
                    by = {a.axis: e for a, e in zip(probe[:-1], index, strict=True) if isinstance(a, Index)}
                    return tuple(self.ix.substitute(e, by) for e in inner)

                return load.buffer, place
        return self.point(rows.shape, rows.dtype, rows.at, "rows").definition, lambda index: index

    def materialised(self, x: Value, suffix: str = "copy") -> Value:
        """``x`` as a definition of its own."""
        return x if x.definition else self.point(x.shape, x.dtype, x.at, suffix)

    def packed(self, x: Value) -> Value:
        """``x`` as a contiguous view of memory: itself, or a copy."""
        axes = self.own_axes(x.shape)
        load = x.at(axes)
        if isinstance(load, Load) and load.mask is None:
            d = self.defs[load.buffer]
            offset = self.ix.dot(load.index, d.strides) if d.strides else self.ix.ravel(load.index, d.shape)
            if linear(offset)[1] == linear(self.ix.ravel(axes, x.shape))[1]:
                return x
        return self.point(x.shape, x.dtype, x.at, "packed")

    def library(self, op: str, args: Mapping[str, Any], node: Node) -> Value | tuple[Value | None, ...]:
        """A library call with ``args`` by the schema's names; the result, or the results where several."""
        types = node.type if isinstance(node.type, tuple) else (node.type,)
        found: list[Value | None] = []
        call = Call(op, dict(args))
        for i, t in enumerate(types):
            if t is None:
                found.append(None)
                continue
            strides = t.strides
            name = node.name if len(types) == 1 else f"{node.name}_{i}"
            d = Def(
                name,
                t.shape,
                t.dtype,
                "library",
                self.own_axes(t.shape),
                strides=strides,
                call=call,
                result=i,
            )
            found.append(self.add(d))
        return tuple(found) if isinstance(node.type, tuple) else found[0]  # type: ignore[return-value]

    # --- values ------------------------------------------------------------------------------------------

    def full(self, shape: Sequence[int], fill: Number, dtype: str) -> Value:
        constant = cast(Const(fill, "float64" if isinstance(fill, float) else "int64"), dtype)
        return Value(tuple(shape), dtype, lambda _: constant)

    def view(
        self, x: Value, shape: Sequence[int], index: Callable[[tuple[Expr, ...]], Sequence[Expr]]
    ) -> Value:
        """``x`` seen through an index map from ``shape`` to its own."""
        return Value(tuple(shape), x.dtype, lambda i: x.at(tuple(index(i))))

    def scalar(self, value: Value | Number, dtype: str) -> Loader:
        """A loader of a tensor or number in ``dtype``, broadcasting."""
        if isinstance(value, Value):
            return lambda index: cast(value.broadcast(index), dtype)
        constant = cast(Const(value, "float64" if isinstance(value, float) else "int64"), dtype)
        return lambda _: constant

    def promoted(self, *args: Value | Number, kind: str = "DEFAULT") -> tuple[str, str]:
        """(computation dtype, result dtype) of a pointwise operator under ATen's rules."""
        known = ELEMENTWISE_TYPE_PROMOTION_KIND[kind]
        compute, result = elementwise_dtypes(
            *(a.meta if isinstance(a, Value) else a for a in args), type_promotion_kind=known
        )
        return str(compute).removeprefix("torch."), str(result).removeprefix("torch.")

    def pointwise(
        self,
        make: Callable[..., Expr],
        *args: Value | Number,
        kind: str = "DEFAULT",
        suffix: str = "",
        dtype: str = "",
    ) -> Value:
        """``make`` over the promoted, broadcast elements of ``args``."""
        compute, result = self.promoted(*args, kind=kind)
        shape = torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Value)))
        loaders = [self.scalar(a, compute) for a in args]
        return self.point(shape, dtype or result, lambda i: make(*(load(i) for load in loaders)), suffix)

    def unsupported(self, what: str) -> UnsupportedError:
        """An error that names the operator and the user's line."""
        node = self.node
        return UnsupportedError(
            what, got=node.op if node else None, where=(node.line or node.name) if node else None
        )


Rule = Callable[..., Any]
R = TypeVar("R", bound=Rule)


class Table(dict[str, Rule]):
    """Operator overload -> its lowering ``rule(lowering, *args, **kwargs)``, called with ATen's arguments:
    values for tensors, names for dtypes."""


TABLE = Table()


def lowers(*ops: str) -> Callable[[R], R]:
    """Register a lowering for ``ops``, written ``add.Tensor`` (of the ``aten`` namespace)."""

    def register(rule: R) -> R:
        for op in ops:
            TABLE[f"aten.{op}"] = rule
        return rule

    return register


def dims_of(dims: Any, rank: int) -> tuple[int, ...]:
    """Non-negative dimensions; all where ``dims`` is None or empty."""
    if dims is None or (isinstance(dims, (tuple, list)) and not dims):
        return tuple(range(rank))
    if isinstance(dims, int):
        dims = (dims,)
    return tuple(d % rank if rank else 0 for d in dims)
