"""Sums over short windows as straight-line code, and neighbouring windows that share what they load.

A windowed sum (pooling, a depthwise convolution) reads the same elements for neighbouring results. As one
expression over its few points it is a pointwise nest: lanes that are neighbours read neighbouring addresses,
positions are constants, a weight is one load for all results of a channel. Several results along another axis
then have loads in common, which a program keeps in registers (unroll and jam).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from attrs import evolve

from kevolve_core.ir import (
    Axis,
    Expr,
    Index,
    Let,
    Load,
    LoopNest,
    Op,
    Reduce,
    Statement,
    Store,
    Var,
    affine,
    axes_of,
    children,
    loads_of,
    walk,
)
from kevolve_core.languages.rounding import few_results
from kevolve_core.synth.index import Indexer, integer, rebuild

__all__ = ["jammed", "misaligned", "overlapping", "reach", "unrolled"]

_TAPS = 64  # points of a window at most; estimated
_NODES = 4096  # expressions of a result at most: compilers take seconds beyond; estimated
_VECTOR = 4  # elements of a lane's widest load of float32
_APART = 4  # elements between what neighbouring lanes read, at most; estimated


@lru_cache(maxsize=512)
def unrolled(nest: LoopNest) -> LoopNest:
    """``nest`` without its reductions, where all of them are sums over the few points of one window; else
    ``nest`` itself."""
    window = _window(nest)
    if not window:
        return nest
    ix = _indexer(nest.axes)
    spans = nest.spans()
    names = {a.name for a in window}
    points = [
        {a.name: integer(k) for a, k in zip(window, at, strict=True)}
        for at in itertools.product(*(range(a.extent) for a in window))
    ]
    moving: dict[str, Expr] = {}
    body: list[Statement] = []
    for s in nest.body:
        if isinstance(s, Let) and spans[s.name] & names:
            moving[s.name] = _inlined(s.value, moving)
        elif isinstance(s, Reduce):
            value = _cast(_inlined(s.value, moving), s.accumulate)
            total = ix.substitute(value, points[0])
            for point in points[1:]:
                total = Op("add", (total, ix.substitute(value, point)), s.accumulate)
            body.append(Let(s.name, _cast(total, s.dtype)))
        else:
            body.append(s)
    axes = tuple(a for a in nest.axes if a.name not in names)
    return LoopNest(nest.name, axes, len(axes), tuple(body), nest.covers, nest.anchor)


def overlapping(nest: LoopNest) -> str:
    """The loop around the innermost one of a nest that combines nothing, where neighbouring points of it load
    the same elements; else ""."""
    if len(nest.axes) < 2 or not all(isinstance(s, (Let, Store)) for s in nest.body):
        return ""
    if any(isinstance(s, Store) and s.mode != "set" for s in nest.body):
        return ""
    axis = nest.axes[-2]
    ix = _indexer(nest.axes)
    ix.extents[axis.name] = axis.extent + 1
    here = {e for root in nest.expressions() for e in loads_of(root) if axis.name in axes_of(e)}
    memo: dict[Expr, Expr] = {}
    stay = {axis.name: Index(axis.name)}
    same = {ix.substitute(e, stay, memo) for e in here}
    memo = {}
    after = {axis.name: ix.add(Index(axis.name), integer(1))}
    return axis.name if any(ix.substitute(e, after, memo) in same for e in here) else ""


def jammed(nest: LoopNest, axis: str, count: int) -> LoopNest:
    """``nest`` with ``count`` neighbouring points of ``axis`` computed together. Where ``count`` does not
    divide the loop, the last ones are moved back into it: what is computed twice is the same."""
    extent = nest.extent(axis)
    count = min(count, extent)
    if count < 2:
        return nest
    blocks = -(-extent // count)
    ix = _indexer(nest.axes)
    ix.extents[axis] = blocks
    first = ix.scale(Index(axis), count)
    if extent % count:
        first = Op("min", (first, integer(extent - count)), "int64")
    spans = nest.spans()
    body: list[Statement] = []
    for k in range(count):
        by = {axis: ix.add(first, integer(k))}
        memo: dict[Expr, Expr] = {}
        named: dict[str, Expr] = {}

        def moved(
            e: Expr,
            by: Mapping[str, Expr] = by,
            memo: dict[Expr, Expr] = memo,
            named: Mapping[str, Expr] = named,
        ) -> Expr:
            return _inlined(ix.substitute(e, by, memo), named)

        for s in nest.body:
            if isinstance(s, Let) and axis not in spans[s.name]:
                body += [s] if k == 0 else []
            elif isinstance(s, Let):
                own = f"{s.name}_{k}" if k else s.name
                body.append(Let(own, moved(s.value)))
                named[s.name] = Var(own, s.value.dtype)
            elif isinstance(s, Store):
                mask = None if s.mask is None else moved(s.mask)
                body.append(evolve(s, index=tuple(map(moved, s.index)), value=moved(s.value), mask=mask))
    axes = tuple(Axis(a.name, blocks) if a.name == axis else a for a in nest.axes)
    return evolve(nest, axes=axes, body=tuple(body))


def _shifts(nest: LoopNest) -> Mapping[str, Sequence[tuple[int, int]]]:
    """By buffer: step and shift along the innermost loop of what is loaded, where that is affine."""
    last = nest.axes[-1].name
    found: dict[str, dict[tuple[int, int], None]] = defaultdict(dict)
    for e in {e for root in nest.expressions() for e in loads_of(root)}:
        form = affine(e.index[-1]) if e.index else None
        if form is not None and last in form[1]:
            found[e.buffer][form[1][last], form[0]] = None
    return {buffer: tuple(of) for buffer, of in found.items()}


def reach(nest: LoopNest) -> int:
    """How far apart elements of one buffer are that a point of ``nest`` loads, where they move with its
    innermost loop; in elements."""
    of = [[shift for _, shift in shifts] for shifts in _shifts(nest).values()] if nest.axes else []
    return max((max(shifts) - min(shifts) for shifts in of), default=0)


def misaligned(nest: LoopNest) -> bool:
    """Whether points load several neighbours along the innermost loop that are not all where vectors
    begin."""
    return any(
        len(shifts) > 1 and any(step > 1 or shift % _VECTOR for step, shift in shifts)
        for shifts in (_shifts(nest).values() if nest.axes else ())
    )


def _window(nest: LoopNest) -> Sequence[Axis]:
    """The axes of the window that every reduction of ``nest`` sums over; empty where there is none."""
    sums = [s for s in nest.body if isinstance(s, Reduce)]
    others = [s for s in nest.body if not isinstance(s, Reduce)]
    if not sums or not all(isinstance(s, (Let, Store)) for s in others):
        return ()
    names = set(sums[0].axes)
    if any(s.combiner != "sum" or set(s.axes) != names for s in sums):
        return ()
    window = [a for a in nest.axes if a.name in names]
    left = [a for a in nest.axes if a.name not in names]
    taps = math.prod(a.extent for a in window)
    if not left or not 1 < taps <= _TAPS or few_results(taps, math.prod(a.extent for a in left)):
        return ()
    if any(isinstance(s, Store) and (s.mode != "set" or nest.span(s) & names) for s in others):
        return ()
    if set(nest.axes[: nest.outer]) - set(left) or any(nest.spans()[s.name] & names for s in sums):
        return ()
    values = {s.name: s.value for s in others if isinstance(s, Let)}
    roots = [_inlined(s.value, values) for s in sums]
    if sum(sum(1 for _ in walk(e)) for e in roots) * taps > _NODES:
        return ()
    loads = [load for e in roots for load in loads_of(e)]
    last = left[-1].name
    near = [e for e in loads if _is_near(e, last)]
    weights = (last not in axes_of(e) or axes_of(e) <= {*names, last} for e in loads if e not in near)
    if not all(weights) or not (len(left) > 1 or len(near) == len(loads)):
        return ()
    extents = {a.name: a.extent for a in nest.axes}
    return window if any(_slides(e, names, last, extents) for e in near) else ()


def _is_near(load: Load, last: str) -> bool:
    """Whether lanes that are neighbours along axis ``last`` read elements that are near one another."""
    form = affine(load.index[-1]) if load.index else None
    return form is not None and 1 <= form[1].get(last, 0) <= _APART


def _slides(load: Load, window: set[str], last: str, extents: Mapping[str, int]) -> bool:
    """Whether two points of a loop read the same element, at different points of the window; or neighbours
    along ``last`` read without a gap."""
    for form in map(affine, load.index):
        for axis, step in (form or (0, {}))[1].items():
            for w, along in form[1].items() if form is not None and axis not in window else ():
                common = math.gcd(step, along)
                most = extents[w] + (axis == last)
                if w in window and abs(along) // common < extents[axis] and abs(step) // common < most:
                    return True
    return False


def _indexer(axes: Sequence[Axis]) -> Indexer:
    """Index arithmetic over ``axes``; others may have any extent."""
    ix = Indexer()
    ix.extents = defaultdict(lambda: 1 << 31, {a.name: a.extent for a in axes})
    return ix


def _cast(e: Expr, dtype: str) -> Expr:
    return e if e.dtype == dtype else Op("cast", (e,), dtype)


def _inlined(e: Expr, values: Mapping[str, Expr]) -> Expr:
    """``e`` with named values in place."""
    if not values:
        return e
    memo: dict[Expr, Expr] = {}
    for node in walk(e):  # children first
        if isinstance(node, Var):
            memo[node] = values.get(node.name, node)
        elif below := children(node):
            memo[node] = rebuild(node, (memo[c] for c in below))
        else:
            memo[node] = node
    return memo[e]
