"""Sums of exponentials in one pass over memory: a running maximum, and a sum rescaled when it grows.

A softmax needs ``m = max(x)`` and ``s = sum(exp(x - m))`` of a row: two passes. In one (Milakov and
Gimelshein, "Online normalizer calculation for softmax", 2018), a block of a row is read from memory for
its maximum and again, from the L1 cache, for its exponentials. ``exp(x - m')`` of an earlier, smaller
maximum ``m'`` is corrected by ``exp(m' - m)``: exact up to the rounding of one factor a block that raises
the maximum, in float64.

Rows that hold NaN, and rows whose maximum is infinite, are computed again by the two passes as they stand:
what infinities give there depends on the order of the operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import evolve, frozen

from kevolve_core.ir import Const, Expr, Let, LoopNest, Op, Reduce, Store, Var, axes_of
from kevolve_cpu.render.passes import Pass
from kevolve_cpu.render.tidy import uses

__all__ = ["Online", "online_of", "online_passes", "reuses_exponentials"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@frozen
class Online:
    """The two reductions of a nest that one pass can compute."""

    top: Reduce
    total: Reduce


def online_of(nest: LoopNest) -> Online | None:
    """The maximum and the sum of exponentials below it over one axis, where ``nest`` has such a pair."""
    lets = {s.name: s.value for s in nest.body if isinstance(s, Let)}
    tops = {s.name: s for s in nest.body if isinstance(s, Reduce) and _is_maximum(s)}
    for s in nest.body:
        if not isinstance(s, Reduce) or s.combiner != "sum" or s.accumulate not in ("float32", "float64"):
            continue
        for top in tops.values():
            if s.axes == top.axes and _below(s.value, top, lets):
                return Online(top, s)
    return None


def online_passes(nest: LoopNest, passes: list[Pass]) -> tuple[Pass, Pass] | None:
    """The passes of the pair, where each is a pass of its own that runs over nothing but the reduced axis."""
    pair = online_of(nest)
    if pair is None:
        return None
    found = [p for p in passes if len(p.sinks) == 1 and p.axes == pair.top.axes]
    first = next((p for p in found if p.sinks[0] is pair.top), None)
    second = next((p for p in found if p.sinks[0] is pair.total), None)
    return (first, second) if first is not None and second is not None else None


def reuses_exponentials(nest: LoopNest, pair: Online) -> bool:
    """Whether a statement along the reduced axis needs the exponentials again, as a softmax does and its
    logarithm does not."""
    lets = {s.name: s.value for s in nest.body if isinstance(s, Let)}
    exponential = _resolved(pair.total.value, lets)
    return any(
        isinstance(s, Store) and any(exponential == e for e in uses((_resolved(s.value, lets),)))
        for s in nest.body
    )


def _is_maximum(s: Reduce) -> bool:
    return s.combiner == "max" and len(s.axes) == 1 and s.dtype in _FLOATS and s.accumulate == s.dtype


def _below(value: Expr, top: Reduce, lets: Mapping[str, Expr]) -> bool:
    """Whether ``value`` is ``exp(x - m)`` of the values ``x`` whose maximum ``m`` is ``top``."""
    e = _resolved(value, lets)
    if not (isinstance(e, Op) and e.name == "exp" and isinstance(e.args[0], Op) and e.args[0].name == "sub"):
        return False
    x, center = e.args[0].args
    if top.name in {v.name for v in uses((x,)) if isinstance(v, Var)}:
        return False
    return x == _resolved(top.value, lets) and _is_center(center, top.name)


def _is_center(e: Expr, name: str) -> bool:
    """Whether ``e`` is value ``name``, or 0 where that is infinite."""
    if isinstance(e, Op) and e.name == "where":
        test, zero, e = e.args
        infinite = (
            isinstance(test, Op) and test.name == "eq" and Const(math.inf, test.args[1].dtype) in test.args
        )
        if not (infinite and isinstance(zero, Const) and zero.value == 0 and not axes_of(test)):
            return False
    return isinstance(e, Var) and e.name == name


def _resolved(e: Expr, lets: Mapping[str, Expr]) -> Expr:
    """``e`` with named values in place and without conversions to a wider floating type: comparing two such
    forms compares what they compute."""
    done: dict[int, Expr] = {}

    def form(e: Expr) -> Expr:
        if id(e) not in done:
            done[id(e)] = plain(e)
        return done[id(e)]

    def plain(e: Expr) -> Expr:
        if isinstance(e, Var) and e.name in lets:
            return form(lets[e.name])
        if isinstance(e, Op):
            return form(e.args[0]) if _widens(e) else evolve(e, args=tuple(form(a) for a in e.args))
        return e

    return form(e)


def _widens(e: Op) -> bool:
    if e.name != "cast" or e.dtype not in ("float32", "float64") or e.args[0].dtype not in _FLOATS:
        return False
    return _FLOATS.index(e.args[0].dtype) < _FLOATS.index(e.dtype)
