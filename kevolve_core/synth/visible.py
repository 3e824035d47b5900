"""Which positions a mask leaves: where a score is surely ``-inf``, read from its expression."""

from __future__ import annotations

import math

from kevolve_core.ir import Const, Expr, Op
from kevolve_core.synth.index import linear

__all__ = ["visible"]

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
