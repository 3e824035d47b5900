"""A loop nest that is a softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import frozen

from kevolve_core.ir import Const, Expr, Let, LoopNest, Op, Reduce, Store, Var, children, walk
from kevolve_core.synth.index import rebuild

__all__ = ["FLOATS", "Softmax", "inlined", "softmax_of"]

FLOATS = frozenset(["float32", "float16", "bfloat16"])


@frozen
class Softmax:
    """Weights as a nest computes them: of what, over which loops, and where they go."""

    score: Expr
    axes: tuple[str, ...]
    store: Store
    safe: bool


def _bare(e: Expr) -> Expr:
    """``e`` without conversions of floats around it."""
    while isinstance(e, Op) and e.name == "cast" and {e.dtype, e.args[0].dtype} <= FLOATS:
        e = e.args[0]
    return e


def inlined(e: Expr, lets: Mapping[str, Expr], memo: dict[Expr, Expr]) -> Expr:
    """``e`` with named values put in their place."""
    if (found := memo.get(e)) is None:
        if isinstance(e, Var):
            found = inlined(lets[e.name], lets, memo) if e.name in lets else e
        else:
            found = rebuild(e, [inlined(c, lets, memo) for c in children(e)]) if children(e) else e
        memo[e] = found
    return found


def softmax_of(nest: LoopNest) -> Softmax | None:
    """``nest`` as a softmax, or None: a maximum, the sum of exponentials by it, and their quotients."""
    lets = {s.name: s.value for s in nest.body if isinstance(s, Let)}
    reduces = [s for s in nest.body if isinstance(s, Reduce)]
    stores = [s for s in nest.body if isinstance(s, Store)]
    if len(reduces) != 2 or len(stores) != 1 or len(lets) + 3 != len(nest.body):
        return None
    (top, total), (store,) = reduces, stores
    if (top.combiner, total.combiner, store.mode, store.mask) != ("max", "sum", "set", None):
        return None
    if set(top.axes) != set(total.axes):
        return None
    memo: dict[Expr, Expr] = {}
    score, power, weight = (_bare(inlined(e, lets, memo)) for e in (top.value, total.value, store.value))
    if score.dtype not in FLOATS or any(isinstance(e, Var) for e in walk(score)):
        return None
    shifted = _argument(power, "exp")
    if not (isinstance(shifted, Op) and shifted.name == "sub" and _is(shifted.args[1], top.name)):
        return None
    if _bare(shifted.args[0]) != score:
        return None
    safe = False
    if isinstance(weight, Op) and weight.name == "where":
        condition, zero, weight = weight.args[0], _bare(weight.args[1]), _bare(weight.args[2])
        if not (isinstance(zero, Const) and zero.value == 0 and _all_hidden(condition, top.name)):
            return None
        safe = True
    if not (isinstance(weight, Op) and weight.name == "div" and _bare(weight.args[0]) == power):
        return None
    return Softmax(score, top.axes, store, safe) if _is(weight.args[1], total.name) else None


def _argument(e: Expr, name: str) -> Expr | None:
    return _bare(e.args[0]) if isinstance(e, Op) and e.name == name else None


def _is(e: Expr, name: str) -> bool:
    e = _bare(e)
    return isinstance(e, Var) and e.name == name


def _all_hidden(condition: Expr, top: str) -> bool:
    """Whether ``condition`` says that the largest score is ``-inf``."""
    if not (isinstance(condition, Op) and condition.name == "eq" and _is(condition.args[0], top)):
        return False
    bound = _bare(condition.args[1])
    return isinstance(bound, Const) and bound.value == -math.inf
