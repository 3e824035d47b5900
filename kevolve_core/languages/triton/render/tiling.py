"""How a nest's loops become programs and tiles.

Axes that no statement combines over, and that every result spans, are *rows*: the grid takes them, flattened,
``ROWS`` a program. The others are *columns*: a program walks them, flattened, ``COLS`` at a time, in one pass
or several. A nest that combines nothing has only its last axis as columns, so that a tile is a rectangle of
memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Axis,
    Const,
    Contract,
    Expr,
    Let,
    Load,
    LoopNest,
    Op,
    Reduce,
    Scan,
    Search,
    Statement,
    Store,
    Var,
    children,
    walk,
)  # fmt: skip

HELD_TILES = 32  # tiles of a row that is held, at most, since each is printed; estimated

__all__ = [
    "HELD_TILES",
    "Pass",
    "Tiling",
    "divisible",
    "expressions",
    "drift_pairs",
    "holdable",
    "moment_pairs",
    "online_pairs",
    "passes_of",
    "tiling_of",
    "uses",
]


@frozen
class Tiling:
    """Axes of the rows and of the columns, slowest first. ``combines``: some statement reduces or scans."""

    rows: tuple[Axis, ...]
    cols: tuple[Axis, ...]
    combines: bool

    @property
    def row_count(self) -> int:
        return math.prod(a.extent for a in self.rows)

    @property
    def col_count(self) -> int:
        return math.prod(a.extent for a in self.cols)


@frozen
class Pass:
    """Statements of one walk over ``cols`` (none: once a row), in order. ``stage`` counts the combinations
    that have to be finished before it."""

    stage: int
    cols: tuple[str, ...]
    sinks: tuple[Statement, ...]


def expressions(s: Statement) -> tuple[Expr, ...]:
    """The expressions a statement evaluates."""
    if isinstance(s, (Let, Reduce, Scan)):
        return (s.value,)
    if isinstance(s, Contract):
        return (s.left, s.right)
    if isinstance(s, Search):
        return (*s.index, s.value)
    return (*s.index, s.value, *(() if s.mask is None else (s.mask,)))


def _consumed(nest: LoopNest) -> set[str]:
    found: set[str] = set()
    for s in nest.body:
        if isinstance(s, (Reduce, Contract)):
            found |= set(s.axes)
        elif isinstance(s, Scan):
            found.add(s.axis)
    return found


def tiling_of(nest: LoopNest) -> Tiling:
    """Rows and columns of ``nest``."""
    consumed = _consumed(nest)
    sinks = [nest.span(s) for s in nest.body if isinstance(s, (Reduce, Contract, Scan, Store))]
    inner = {a.name for a in nest.inner_axes}

    def is_row(a: Axis) -> bool:
        return a.name not in consumed and (a.name not in inner or all(a.name in span for span in sinks))

    rows = tuple(a for a in nest.axes if is_row(a))
    cols = tuple(a for a in nest.axes if not is_row(a))
    if not consumed and not cols and rows:
        return Tiling(rows[:-1], rows[-1:], False)
    return Tiling(rows, cols, bool(consumed))


def passes_of(nest: LoopNest, tiling: Tiling, online: Mapping[str, str] | None = None) -> list[Pass]:
    """The walks that a program makes over its columns. ``online`` sums run with the maximum they name.

    Raises UnsupportedError where one combination spans columns that another combines over.
    """
    cols = [a.name for a in tiling.cols]
    spans = nest.spans()
    stage_of: dict[str, int] = {}
    found: dict[tuple[int, tuple[str, ...]], list[Statement]] = {}
    for s in nest.body:
        read = [v.name for e in expressions(s) for v in walk(e) if isinstance(v, Var)]
        stage = max((stage_of[name] for name in read), default=0)
        span = nest.span(s) | (set(s.axes) if isinstance(s, (Reduce, Contract)) else set())
        own = tuple(a for a in cols if a in span)
        if isinstance(s, (Let, Search)):
            stage_of[s.name] = stage
            continue
        if isinstance(s, (Reduce, Contract)):
            if spans[s.name] & set(cols):
                raise UnsupportedError(
                    "a reduction inside the loops of another one is not printed in Triton",
                    where=f"nest {nest.name}, {s.name}",
                )
            if online and s.name in online:
                stage = stage_of[online[s.name]] - 1
            stage_of[s.name] = stage + 1
        elif isinstance(s, Scan):
            if own != (s.axis,):
                raise UnsupportedError(
                    "a scan inside the loops of another statement is not printed in Triton",
                    where=f"nest {nest.name}, {s.name}",
                )
            stage_of[s.name] = stage
            continue
        found.setdefault((stage, own), []).append(s)
    ordered = sorted(found.items(), key=lambda x: (x[0][0], not x[0][1]))
    return [Pass(stage, own, tuple(sinks)) for (stage, own), sinks in ordered]


def divisible(p: Pass, nest: LoopNest) -> bool:
    """Whether the walk's columns can be divided among programs that all do what comes before it: it only
    stores, and nothing is added up in memory."""
    scans = any(isinstance(s, Scan) for s in nest.body)
    stores = [s for s in nest.body if isinstance(s, Store)]
    plain = all(s.mode == "set" for s in stores) and not scans
    return bool(p.cols) and plain and all(isinstance(s, Store) for s in p.sinks)


def holdable(nest: LoopNest, tiling: Tiling) -> bool:
    """Whether a row's tiles can stay in registers from one walk to the next, and are worth it: there are
    several walks over all columns, or so few columns (a window's) that they can be unrolled. No scan or
    position may be carried along them."""
    plain = not any(
        isinstance(s, Scan) or (isinstance(s, Reduce) and s.combiner in ("argmax", "argmin"))
        for s in nest.body
    )
    whole = tuple(a.name for a in tiling.cols)
    if not (plain and tiling.combines):
        return False
    return tiling.col_count <= HELD_TILES or sum(p.cols == whole for p in passes_of(nest, tiling)) > 1


def online_pairs(nest: LoopNest) -> Mapping[str, str]:
    """Sums of ``exp(v - m)`` by the maximum ``m`` of the same ``v`` that they can be taken along with."""
    values: dict[str, Expr] = {s.name: s.value for s in nest.body if isinstance(s, Let)}
    maxima = {s.name: s for s in nest.body if isinstance(s, Reduce) and s.combiner == "max"}
    found: dict[str, str] = {}
    for s in nest.body:
        if not (isinstance(s, Reduce) and s.combiner == "sum" and s.accumulate == "float32"):
            continue
        e = _resolved(s.value, values)
        if not (isinstance(e, Op) and e.name == "exp" and e.dtype == "float32"):
            continue
        shifted = _resolved(e.args[0], values)
        if isinstance(shifted, Op) and shifted.name == "sub" and isinstance(shifted.args[1], Var):
            m = maxima.get(shifted.args[1].name)
            if m and m.axes == s.axes and _inlined(m.value, values) == _inlined(shifted.args[0], values):
                found[s.name] = m.name
    return found


def moment_pairs(nest: LoopNest) -> Mapping[str, tuple[str, str]]:
    """Sums of ``(v - mean) ** 2`` whose mean is that of the same ``v`` over the same axes: sum of squares ->
    (sum, name of the mean). They can be taken along with the sum, as Welford does."""
    values: dict[str, Expr] = {s.name: s.value for s in nest.body if isinstance(s, Let)}
    found: dict[str, tuple[str, str]] = {}
    for s in _sums(nest):
        square = _resolved(s.value, values)
        if isinstance(square, Op) and square.name == "mul":
            first, second = (_resolved(a, values) for a in square.args)
            about = _about_mean(nest, s, first, values) if first == second else None
            if about is not None:
                found[s.name] = about
    return found


def drift_pairs(nest: LoopNest) -> Mapping[str, str]:
    """Sums of ``v - mean`` (what rounding left out of the mean), by the sum of squares of `moment_pairs`
    about the same mean: lanes that know their own means know them too."""
    values: dict[str, Expr] = {s.name: s.value for s in nest.body if isinstance(s, Let)}
    squares = {about: name for name, about in moment_pairs(nest).items()}
    found: dict[str, str] = {}
    for s in _sums(nest):
        about = _about_mean(nest, s, _resolved(s.value, values), values)
        if about is not None and about in squares:
            found[s.name] = squares[about]
    return found


def _sums(nest: LoopNest) -> list[Reduce]:
    return [
        s
        for s in nest.body
        if isinstance(s, Reduce) and s.combiner == "sum" and s.accumulate in {"float32", "float64"}
    ]


def _about_mean(nest: LoopNest, s: Reduce, e: Expr, values: Mapping[str, Expr]) -> tuple[str, str] | None:
    """(sum, name of the mean) where ``e`` is ``v - mean`` for the mean of ``v`` over the axes of ``s``."""
    e = _uncast(e, values)
    mean = e.args[1] if isinstance(e, Op) and e.name == "sub" and e.dtype == "float32" else None
    if not isinstance(e, Op) or not isinstance(mean, Var) or mean.name not in values:
        return None
    divided = values[mean.name]
    if not (isinstance(divided, Op) and divided.name == "div" and isinstance(divided.args[0], Var)):
        return None
    total = next((x for x in _sums(nest) if x.name == divided.args[0].name), None)
    count = math.prod(nest.extent(a) for a in s.axes)
    if total is None or total.axes != s.axes or total.accumulate != s.accumulate:
        return None
    if divided.args[1] != Const(float(count), "float32"):
        return None
    summed = _uncast(_inlined(total.value, values), values)
    return (total.name, mean.name) if summed == _inlined(e.args[0], values) else None


def _uncast(e: Expr, values: Mapping[str, Expr]) -> Expr:
    """``e`` without the conversion to the type it is summed in."""
    e = _resolved(e, values)
    if isinstance(e, Op) and e.name == "cast" and e.dtype == "float64" and e.args[0].dtype == "float32":
        return _resolved(e.args[0], values)
    return e


def _resolved(e: Expr, values: Mapping[str, Expr]) -> Expr:
    while isinstance(e, Var) and e.name in values:
        e = values[e.name]
    return e


def _inlined(e: Expr, values: Mapping[str, Expr]) -> Expr:
    e = _resolved(e, values)
    if isinstance(e, Op):
        return Op(e.name, tuple(_inlined(a, values) for a in e.args), e.dtype)
    if isinstance(e, Load):
        mask = None if e.mask is None else _inlined(e.mask, values)
        other = None if e.other is None else _inlined(e.other, values)
        return Load(e.buffer, tuple(_inlined(i, values) for i in e.index), e.dtype, mask, other)
    return e


def uses(roots: Iterable[Expr], statements: Mapping[str, Statement]) -> Mapping[Expr, int]:
    """How often each subexpression is an argument of another, named values read through once."""
    counts: dict[Expr, int] = {}
    stack: list[Expr] = list(roots)
    for e in stack:
        counts[e] = counts.get(e, 0) + 1
    seen: set[Expr] = set()
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        below: Sequence[Expr] = children(e)
        if isinstance(e, Var):
            below = expressions(statements[e.name]) if not isinstance(statements[e.name], Reduce) else ()
        for c in below:
            counts[c] = counts.get(c, 0) + 1
            stack.append(c)
    return counts
