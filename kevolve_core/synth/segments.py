"""Loops cut where a tensor is put together: concatenated, padded, stacked or rotated along an axis.

Such a definition says ``where(axis < 32, one part, another)``. Walked in segments between the positions where
its conditions flip, every condition is decided before anything is printed: a rotary embedding is two stores
without a mask, and a stack of the states of an unrolled recurrence is one store a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from attrs import evolve, frozen

from kevolve_core.ir import Const, Expr, Index, Load, Op, walk
from kevolve_core.synth.index import Indexer, linear
from kevolve_core.synth.lower import Def

__all__ = ["MOST", "Segments", "breaks", "chosen", "divided", "placed"]

#: A segment of the fastest axis holds at least a vector of the widest lanes; more copies of a body than
#: `MOST` in a nest, or than twice the regimes there are, cost more than the conditions. `MANY` segments are
#: divided among several nests. Estimated.
NARROWEST, WIDE, MOST, MANY = 16, 4, 64, 1024


@frozen
class Segments:
    """``axis`` is walked as ``count`` segments of ``size``, from number ``first`` on, one copy of the body
    each."""

    axis: str
    size: int
    count: int
    first: int = 0


def breaks(
    defs: Mapping[str, Def],
    inlined: Callable[[str], bool],
    name: str,
    axis: str,
    memo: dict[tuple[str, str], frozenset[int]] | None = None,
) -> frozenset[int]:
    """Positions along ``axis``, one of its own, at which a condition of definition ``name`` flips, those of
    what it inlines included."""
    memo = {} if memo is None else memo
    if (name, axis) in memo:
        return memo[name, axis]
    memo[name, axis] = frozenset()
    found: set[int] = set()
    d = defs[name]
    for e in walk(d.value) if d.value is not None else ():
        if isinstance(e, Op) and e.name in {"lt", "ge"} and (at := _flip(e, axis)) is not None:
            found.add(at)
        elif isinstance(e, Load) and inlined(e.buffer):
            for i, own in zip(e.index, defs[e.buffer].axes, strict=True):
                constant, terms = linear(i)
                if isinstance(own, Index) and terms == {Index(axis): 1}:
                    found |= {b - constant for b in breaks(defs, inlined, e.buffer, own.axis, memo)}
    memo[name, axis] = frozenset(found)
    return memo[name, axis]


def _flip(e: Op, axis: str) -> int | None:
    """The first position at which ``e``, a comparison of ``axis`` alone with a number, is not what it is at
    the start; None for other comparisons."""
    if not isinstance(e.args[1], Const) or e.args[0].dtype != "int64":
        return None
    constant, terms = linear(e.args[0])
    if set(terms) != {Index(axis)}:
        return None
    c, rest = terms[Index(axis)], int(e.args[1].value) - constant
    return -(-rest // c) if c > 0 else rest // c + 1


def chosen(ix: Indexer, order: Sequence[str], breaks_of: Mapping[str, frozenset[int]]) -> Segments | None:
    """The axis of ``order`` (slowest first) to walk in segments, if that pays for one: fewest copies.
    Where there are more than `MOST`, they are to be `divided`."""
    found: list[Segments] = []
    for axis in order:
        extent = ix.extents[axis]
        inside = {b for b in breaks_of.get(axis, ()) if 0 < b < extent}
        if not inside:
            continue
        size = math.gcd(extent, *inside)
        count = extent // size
        fastest = axis == order[-1]
        fits = size >= NARROWEST and count <= WIDE if fastest else count <= MANY
        if fits and count <= 2 * (len(inside) + 1):
            found.append(Segments(axis, size, count))
    return min(found, key=lambda s: s.count, default=None)


def divided(segments: Segments) -> list[Segments]:
    """``segments`` in parts of at most `MOST`, as equal as they can be."""
    each = -(-segments.count // -(-segments.count // MOST))
    starts = range(0, segments.count, each)
    return [evolve(segments, first=k, count=min(each, segments.count - k)) for k in starts]


def placed(ix: Indexer, segments: Segments, part: int, within: str) -> Mapping[str, Expr]:
    """The axis in segment ``part``, in terms of the position ``within`` it."""
    inside: Expr = Index(within) if segments.size > 1 else Const(0, "int64")
    return {segments.axis: ix.add(inside, Const(part * segments.size, "int64"))}
