"""The loop IR: what `synth` lowers every fusion group to, and all that renderers and schedule spaces ever
see.

A `Program` computes one case of a spec: buffers, then steps in order. A step is a `LoopNest` (one generated
kernel) or a `LibraryCall`, possibly with a nest as its tiled epilogue; or an `Attention`, made of such steps,
which only a renderer that has a kernel for it is shown (`kevolve_core.interfaces.Fusing`). No ATen node and
no operator's name reaches a renderer, so a new operator is one lowering and a new language one renderer.

Semantics of a nest. `axes` are its loops, all extents static. ``outer`` axes are independent tasks, in any
order and in parallel; the other axes are inner. Statements run in order for each outer point. A statement
*spans* the axes its expressions depend on, through `Var` too. `Reduce` and `Scan` consume inner axes. A `Let`
or `Store` that spans an inner axis runs at each of its points; a value is recomputed or kept as the
renderer's schedule says. So softmax over the last dimension is, for outer ``n`` and inner ``c``::

    m = Reduce(max,  x[n, c], over c)
    e = Let(exp(x[n, c] - m))                  # spans n, c
    s = Reduce(sum,  e, over c)
    Store(out[n, c], e / s)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen

from kevolve_core.ir.attention import Attention
from kevolve_core.ir.expr import Expr, Index, Load, Var, axes_of, children, walk
from kevolve_core.model import freeze

__all__ = [
    "COMBINERS", "Axis", "Buffer", "Contract", "Let", "LibraryCall", "LoopNest", "Operand", "OutputRef",
    "Program", "Reduce", "Scan", "Search", "Single", "Statement", "Step", "Store", "itemsize", "singles",
]  # fmt: skip

#: Reduction and scan combiners. ``argmax``/``argmin`` give the first position (int64) of the extremum along
#: the flattened reduced axes, NaN counting as the extremum, as ATen does. ``max``/``min`` propagate NaN.
COMBINERS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin")

_ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2,
"int8": 1,
             "uint8": 1, "bool": 1, "complex64": 8, "complex128": 16}  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes an element of ``dtype`` takes."""
    return _ITEMSIZE[dtype]


@frozen
class Buffer:
    """A tensor of static shape.

    Args:
        name: identifier, unique in the program.
        shape: elements per dimension; () is a scalar tensor.
        dtype: torch's name.
        role: ``input`` (positional argument), ``param`` (state of the module, ``source`` is its state_dict
        key),
            ``constant`` (``data`` holds the flat values), ``temp`` or ``output``.
        strides: in elements; None means contiguous. Inputs keep the strides they were captured with; a
        renderer that
            relies on them states it in the kernel's guard.
        source: argument position (as a string) or state_dict key.
        data: flat values of a constant.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    strides: tuple[int, ...] | None = None
    source: str = ""
    data: tuple[float | int | bool, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * itemsize(self.dtype)

    @property
    def stride(self) -> tuple[int, ...]:
        """Strides in elements, contiguous ones filled in."""
        if self.strides is not None:
            return self.strides
        steps: list[int] = []
        step = 1
        for n in reversed(self.shape):
            steps.append(step)
            step *= n
        return tuple(reversed(steps))


@frozen
class Axis:
    """A loop of ``extent`` iterations, 0-based."""

    name: str
    extent: int


@frozen
class Let:
    """``name = value`` at every point of the axes that ``value`` spans."""

    name: str
    value: Expr


@frozen
class Reduce:
    """``name = combiner over axes of value``; accumulated in ``accumulate`` (dtype), given as ``dtype``."""

    name: str
    combiner: str
    value: Expr
    axes: tuple[str, ...]
    dtype: str
    accumulate: str


@frozen
class Scan:
    """Running combination of ``value`` along ``axis``: ``name`` at a point holds the combination of all
    points up to it (without it when ``exclusive``; from the far end when ``reverse``)."""

    name: str
    combiner: str
    value: Expr
    axis: str
    dtype: str
    accumulate: str
    exclusive: bool = False
    reverse: bool = False


@frozen
class Contract:
    """``name = sum over axes of left * right``: a `Reduce` whose product a renderer may give to matrix
    units."""

    name: str
    left: Expr
    right: Expr
    axes: tuple[str, ...]
    dtype: str
    accumulate: str


@frozen
class Search:
    """``name`` = insertion position (int64) of ``value`` in the ascending ``buffer`` row at ``index`` (all
    dimensions but the last): the count of elements ``< value`` (``<=`` when ``right``), as
    ``torch.searchsorted``."""

    name: str
    buffer: str
    index: tuple[Expr, ...]
    value: Expr
    right: bool = False
    dtype: str = "int64"


@frozen
class Store:
    """``buffer[index] = value`` (``mode`` ``set``) or atomic ``add``/``max``/``min`` into it, where ``mask``
    holds."""

    buffer: str
    index: tuple[Expr, ...]
    value: Expr
    mask: Expr | None = None
    mode: str = "set"


Statement = Let | Reduce | Scan | Contract | Search | Store


def _expressions(s: Statement) -> tuple[Expr, ...]:
    if isinstance(s, (Let, Reduce, Scan)):
        return (s.value,)
    if isinstance(s, Contract):
        return (s.left, s.right)
    if isinstance(s, Search):
        return (*s.index, s.value)
    return (*s.index, s.value, *(() if s.mask is None else (s.mask,)))


def _span(
    s: Statement, spans: Mapping[str, frozenset[str]], known: dict[Expr, frozenset[str]]
) -> frozenset[str]:
    own = (s.axis,) if isinstance(s, Scan) else ()  # a running value moves, even where what it takes does not
    return frozenset(own).union(*(_axes_under(e, spans, known) for e in _expressions(s)))


def _axes_under(
    e: Expr, spans: Mapping[str, frozenset[str]], known: dict[Expr, frozenset[str]]
) -> frozenset[str]:
    """See `LoopNest.axes_under`; ``known`` is filled."""
    stack = [e]
    while stack:
        node = stack[-1]
        below = children(node)
        if node not in known and (missing := [c for c in below if c not in known]):
            stack += missing
            continue
        stack.pop()
        if node not in known:
            own = frozenset[str]()
            if isinstance(node, Index):
                own = frozenset((node.axis,))
            elif isinstance(node, Var):
                own = spans[node.name]
            known[node] = own.union(*(known[c] for c in below))
    return known[e]


@frozen
class LoopNest:
    """One generated kernel: loops, and statements in order.

    Args:
        name: identifier, unique in the program and stable across cases and runs of the same reference, so
        that a
            genome's choices for it carry over.
        axes: all loops, outer ones first, slowest first.
        outer: how many of ``axes`` are outer.
        body: the statements.
        covers: graph nodes it computes, for the comment in the source and the report.
        anchor: ``pointwise``, ``reduction``, ``normalization``, ``scan``, ``gather``, ``contraction``, …
    """

    name: str
    axes: tuple[Axis, ...]
    outer: int
    body: tuple[Statement, ...]
    covers: tuple[str, ...] = ()
    anchor: str = "pointwise"
    _analysis: tuple[dict[str, frozenset[str]], dict[Expr, frozenset[str]]] | None = field(
        default=None, init=False, eq=False, repr=False
    )
    _reads: frozenset[str] | None = field(default=None, init=False, eq=False, repr=False)

    @property
    def outer_axes(self) -> tuple[Axis, ...]:
        return self.axes[: self.outer]

    @property
    def inner_axes(self) -> tuple[Axis, ...]:
        return self.axes[self.outer :]

    def extent(self, axis: str) -> int:
        return next(a.extent for a in self.axes if a.name == axis)

    def spans(self) -> Mapping[str, frozenset[str]]:
        """For each named value, the axes it depends on."""
        return self._analysed()[0]

    def span(self, statement: Statement) -> frozenset[str]:
        """The axes at whose points ``statement`` runs (those it reduces over included)."""
        return _span(statement, *self._analysed())

    def axes_under(self, e: Expr) -> frozenset[str]:
        """The axes that ``e`` depends on, those of the values that it names included."""
        return _axes_under(e, *self._analysed())

    def _analysed(self) -> tuple[dict[str, frozenset[str]], dict[Expr, frozenset[str]]]:
        # Once in the life of the nest: renderers ask at every turn, and long chains share their parts.
        if self._analysis is None:
            spans: dict[str, frozenset[str]] = {}
            known: dict[Expr, frozenset[str]] = {}
            for s in self.body:
                if isinstance(s, Store):
                    continue
                axes = _span(s, spans, known)
                spans[s.name] = axes - set(s.axes) if isinstance(s, (Reduce, Contract)) else axes
            object.__setattr__(self, "_analysis", (spans, known))
            return spans, known
        return self._analysis

    def expressions(self) -> Iterator[Expr]:
        for s in self.body:
            yield from _expressions(s)

    def reads(self) -> frozenset[str]:
        """Names of the buffers it reads."""
        if self._reads is None:
            found = {n.buffer for e in self.expressions() for n in walk(e) if isinstance(n, Load)}
            found |= {s.buffer for s in self.body if isinstance(s, Search)}
            object.__setattr__(self, "_reads", frozenset(found))
            return frozenset(found)
        return self._reads

    def writes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.buffer for s in self.body if isinstance(s, Store)))

    def validate(self) -> None:
        """Raise ValueError where a name is used before it is defined or an axis does not exist."""
        names = {a.name for a in self.axes}
        known: set[str] = set()
        for s in self.body:
            for e in _expressions(s):
                for n in walk(e):
                    if isinstance(n, Var) and n.name not in known:
                        raise ValueError(f"{self.name}: value {n.name} is used before it is defined")
                if not axes_of(e) <= names:
                    raise ValueError(f"{self.name}: unknown axis in {sorted(axes_of(e) - names)}")
            if not isinstance(s, Store):
                known.add(s.name)


@frozen
class Operand:
    """A strided view of a buffer that a library call takes: shape, strides and offset in elements."""

    buffer: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


@frozen
class LibraryCall:
    """A call of the target's tensor library (``aten::mm``, ``aten::convolution``, …), always reported as
    such.

    ``epilogue``, where present, is a nest that reads the call's output (a ``temp`` buffer) and may be run
    tile by tile along its outermost axis, which is then the output's first dimension. ``operands`` are the
    tensor arguments in order: they fill the schema's tensor parameters that ``attributes`` does not name, a
    list of tensors taking all the rest. ``attributes`` are the other arguments that are not at their default,
    by the schema's names: an optional tensor that is not given is None there, a dtype is written
    ``torch.float32``, and a list of tensors before other tensors has ``{"operand": k}`` for each, k into
    ``operands`` (those are not counted again). ``outputs`` is given where the operator returns several
    tensors: a buffer a result, empty where nothing reads it; ``output`` is then the first that is read.

    With ``repeat`` above 0 call and epilogue are one step of a recurrence: they run ``repeat`` times, in
    order. At time ``t`` operand ``k`` lies ``t * advance[k]`` elements further, and the epilogue runs at
    point ``t`` of its first axis only (whose extent is ``repeat``); it may read what it wrote before.
    ``output`` is the same buffer every time.

    ``order`` is given where the output buffer holds the result with its dimensions in another order: it holds
    ``result.permute(order)``, densely (channels-last memory: ``(0, 2, 3, 1)``).
    """

    name: str
    op: str
    operands: tuple[Operand, ...]
    output: str
    attributes: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    epilogue: LoopNest | None = None
    covers: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    repeat: int = 0
    advance: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


#: A step that is not made of others.
Single = LoopNest | LibraryCall
Step = Single | Attention


def singles(step: Step) -> tuple[Single, ...]:
    """``step`` itself, or the steps that it is made of."""
    return step.steps if isinstance(step, Attention) else (step,)


@frozen
class OutputRef:
    """Where one output leaf of the reference lies: a strided view of a buffer."""

    buffer: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


@frozen
class Program:
    """One case, lowered: ``steps`` over ``buffers``. ``outputs`` are the leaves of the reference's result in
    depth-first order and ``structure`` is that result with leaf numbers in place of tensors (an int, or
    nested lists, tuples and dicts of them)."""

    case: str
    buffers: Mapping[str, Buffer] = field(converter=freeze, hash=False)
    steps: tuple[Step, ...]
    outputs: tuple[OutputRef, ...]
    structure: Any = 0

    def inputs(self) -> tuple[Buffer, ...]:
        """Tensor arguments, by position."""
        found = [b for b in self.buffers.values() if b.role == "input"]
        return tuple(sorted(found, key=lambda b: int(b.source)))

    def params(self) -> tuple[Buffer, ...]:
        return tuple(b for b in self.buffers.values() if b.role == "param")

    def singles(self) -> Iterator[Single]:
        """Every step in order, those that are made of others taken apart."""
        for step in self.steps:
            yield from singles(step)

    def nests(self) -> Iterator[LoopNest]:
        """Every nest, epilogues and those of compound steps included, in order."""
        for step in self.singles():
            if isinstance(step, LoopNest):
                yield step
            elif step.epilogue is not None:
                yield step.epilogue
