"""Which positions a mask leaves: where a score is surely ``-inf``, read from its expression."""

from __future__ import annotations

import math

from kevolve_core.ir import Const, Expr, Load, Op, walk
from kevolve_core.synth.index import linear

__all__ = ["unmasked", "visible"]

Bounds = tuple[int | None, int | None]
_EVERYWHERE: Bounds = (None, None)
_FLIPPED = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}


def visible(score: Expr, row: str, col: str) -> Bounds:
    """Smallest and largest ``col - row`` at which ``score`` may be above ``-inf``, None for no bound, where
    what it reads is finite."""
    if not isinstance(score, Op):
        return _EVERYWHERE
    if score.name == "cast" and score.dtype.startswith(("float", "bfloat")):
        return visible(score.args[0], row, col)
    if score.name == "where":
        condition, chosen, other = score.args
        if _is_hidden(other):
            return _both(_holds(condition, row, col, True), visible(chosen, row, col))
        if _is_hidden(chosen):
            return _both(_holds(condition, row, col, False), visible(other, row, col))
    if score.name in ("mul", "div"):
        scaled, by = score.args
        if isinstance(scaled, Const) and score.name == "mul":
            scaled, by = by, scaled
        return visible(scaled, row, col) if isinstance(by, Const) and by.value > 0 else _EVERYWHERE
    if score.name in ("add", "sub"):
        left, right = score.args
        added = visible(right, row, col) if score.name == "add" else _EVERYWHERE
        return _both(visible(left, row, col), added)
    return _EVERYWHERE


def _is_hidden(e: Expr) -> bool:
    while isinstance(e, Op) and e.name == "cast":
        e = e.args[0]
    return isinstance(e, Const) and e.value == -math.inf


def _both(a: Bounds, b: Bounds) -> Bounds:
    """Where both hold."""
    lows = [x for x in (a[0], b[0]) if x is not None]
    highs = [x for x in (a[1], b[1]) if x is not None]
    return max(lows, default=None), min(highs, default=None)


def _holds(condition: Expr, row: str, col: str, wanted: bool) -> Bounds:
    """Bounds that follow from ``condition`` being ``wanted``."""
    if not isinstance(condition, Op):
        return _EVERYWHERE
    name, args = condition.name, condition.args
    if name in ("logical_not", "bitwise_not") and condition.dtype == "bool":
        return _holds(args[0], row, col, not wanted)
    if name == "cast" and args[0].dtype == "bool":
        return _holds(args[0], row, col, wanted)
    if name in (("logical_and", "bitwise_and") if wanted else ("logical_or", "bitwise_or")):
        return _both(_holds(args[0], row, col, wanted), _holds(args[1], row, col, wanted))
    if name == "where":
        test, chosen, other = args
        if isinstance(other, Const) and bool(other.value) != wanted:
            return _both(_holds(test, row, col, True), _holds(chosen, row, col, wanted))
        if isinstance(chosen, Const) and bool(chosen.value) != wanted:
            return _both(_holds(test, row, col, False), _holds(other, row, col, wanted))
        return _EVERYWHERE
    if name in _FLIPPED and args[0].dtype == "int64":
        return _compared(name if wanted else _FLIPPED[name], args[0], args[1], row, col)
    return _EVERYWHERE


def _compared(name: str, left: Expr, right: Expr, row: str, col: str) -> Bounds:
    (a, terms), (b, others) = linear(left), linear(right)
    difference = dict(terms)
    for atom, c in others.items():
        difference[atom] = difference.get(atom, 0) - c
    named = {getattr(atom, "axis", ""): c for atom, c in difference.items() if c}
    if set(named) != {row, col} or named[col] != -named[row] or abs(named[col]) != 1:
        return _EVERYWHERE
    constant = a - b
    if named[col] < 0:  # row - col + constant: the same with both sides negated
        constant = -constant
        name = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}[name]
    # col - row + constant against 0
    if name in ("lt", "le"):
        return None, -constant - (name == "lt")
    return -constant + (name == "gt"), None


def unmasked(score: Expr, product: str, row: str, col: str) -> Expr | None:
    """``score`` without the part that hides what is outside of `visible`, where that part does nothing else,
    and where a load of ``product`` that is ``-inf`` gives a score of ``-inf`` too; None where it is not so.
    """
    found = _without_band(score, row, col)
    return found if found is not None and _follows(found, product) else None


def _without_band(e: Expr, row: str, col: str) -> Expr | None:
    if not isinstance(e, Op):
        return None
    if e.name == "where":
        condition, chosen, other = e.args
        if _is_hidden(other) and _is_band(condition, row, col, True):
            return chosen
        return other if _is_hidden(chosen) and _is_band(condition, row, col, False) else None
    if e.name == "add" and isinstance(_without_band(e.args[1], row, col), Const):
        return e.args[0]  # a mask of 0 and -inf
    if e.name in ("add", "mul", "div", "cast"):
        inner = _without_band(e.args[0], row, col)
        return None if inner is None else Op(e.name, (inner, *e.args[1:]), e.dtype)
    return None


def _is_band(condition: Expr, row: str, col: str, wanted: bool) -> bool:
    """Whether ``condition`` is ``wanted`` exactly within bounds of ``col - row``."""
    if isinstance(condition, Const):
        return bool(condition.value) == wanted
    if not isinstance(condition, Op):
        return False
    name, args = condition.name, condition.args
    if name in ("logical_not", "bitwise_not") and condition.dtype == "bool":
        return _is_band(args[0], row, col, not wanted)
    if name in (("logical_and", "bitwise_and") if wanted else ("logical_or", "bitwise_or")):
        return all(_is_band(a, row, col, wanted) for a in args)
    if name == "where":
        test, chosen, other = args
        if isinstance(other, Const) and bool(other.value) != wanted:
            return _is_band(test, row, col, True) and _is_band(chosen, row, col, wanted)
        if isinstance(chosen, Const) and bool(chosen.value) != wanted:
            return _is_band(test, row, col, False) and _is_band(other, row, col, wanted)
        return False
    return name in _FLIPPED and _holds(condition, row, col, wanted) != _EVERYWHERE


def _follows(e: Expr, product: str) -> bool:
    """Whether ``e`` is ``-inf`` where the product is, given that all else is finite."""
    if isinstance(e, Load):
        return e.buffer == product
    if not isinstance(e, Op):
        return False
    first, rest = e.args[0], e.args[1:]
    if any(isinstance(x, Load) and x.buffer == product for r in rest for x in walk(r)):
        return False
    if e.name in ("mul", "div"):
        return isinstance(rest[0], Const) and rest[0].value > 0 and _follows(first, product)
    return e.name in ("add", "sub", "cast") and _follows(first, product)
