"""Walking and rewriting the statements of a nest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import evolve

from kevolve_core.ir import (
    Const,
    Expr,
    Index,
    Let,
    Load,
    Op,
    Reduce,
    Scan,
    Search,
    Statement,
    Store,
    Var,
    children,
    walk,
)
from kevolve_core.synth.index import delinearised, linear, rebuild

__all__ = ["anchor", "map_linear", "mapped", "maximal_linear", "parts", "renamed", "tidied", "with_buffers"]

Change = Callable[[Expr], Expr]


def parts(s: Statement) -> tuple[Expr, ...]:
    """The expressions of a statement."""
    if isinstance(s, (Let, Reduce, Scan)):
        return (s.value,)
    if isinstance(s, Search):
        return (*s.index, s.value)
    if isinstance(s, Store):
        return (*s.index, s.value, *(() if s.mask is None else (s.mask,)))
    return (s.left, s.right)


def mapped(s: Statement, visit: Change) -> Statement:
    """``s`` with ``visit`` applied to each of its expressions."""
    if isinstance(s, Store):
        mask = None if s.mask is None else visit(s.mask)
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value), mask=mask)
    if isinstance(s, Search):
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value))
    if isinstance(s, (Let, Reduce, Scan)):
        return evolve(s, value=visit(s.value))
    return evolve(s, left=visit(s.left), right=visit(s.right))


def _bottom_up(change: Change) -> Change:
    """A function that applies ``change`` to every subexpression, children first."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if (found := memo.get(e)) is None:
            found = change(rebuild(e, [visit(c) for c in children(e)]) if children(e) else e)
            memo[e] = found
        return found

    return visit


def with_buffers(s: Statement, change: Callable[[Load], Load]) -> Statement:
    """``s`` with ``change`` applied to every access: loads, and the place of a store or a searched row, which
    go through it as loads."""
    s = mapped(s, _bottom_up(lambda e: change(e) if isinstance(e, Load) else e))
    if isinstance(s, Store):
        place = change(Load(s.buffer, s.index, s.value.dtype))
        return evolve(s, buffer=place.buffer, index=place.index)
    if isinstance(s, Search):
        row = change(Load(s.buffer, (*s.index, Const(0, "int64")), s.value.dtype))
        return evolve(s, buffer=row.buffer, index=row.index[:-1])
    return s


def renamed(s: Statement, names: Mapping[str, str]) -> Statement:
    """``s`` with its axes renamed."""
    s = mapped(s, _bottom_up(lambda e: Index(names[e.axis]) if isinstance(e, Index) else e))
    if isinstance(s, Reduce):
        return evolve(s, axes=tuple(names[a] for a in s.axes))
    return evolve(s, axis=names[s.axis]) if isinstance(s, Scan) else s


def _is_sum(e: Expr) -> bool:
    return isinstance(e, Index) or (
        isinstance(e, Op) and e.dtype == "int64" and e.name in {"add", "sub", "mul", "neg"}
    )


def maximal_linear(e: Expr) -> list[dict[str, int]]:
    """Coefficients by axis of every largest integer sum in ``e``."""
    found: list[dict[str, int]] = []
    stack = [e]
    seen: set[Expr] = set()
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if _is_sum(x):
            _, terms = linear(x)
            found.append({a.axis: c for a, c in terms.items() if isinstance(a, Index)})
            stack.extend(
                c for a in terms if not isinstance(a, Index) for c in ([a] if a != x else children(a))
            )
        else:
            stack.extend(children(x))
    return found


def _map_linear(e: Expr, change: Callable[[Expr], Expr], memo: dict[Expr, Expr]) -> Expr:
    """``e`` with ``change`` applied to every largest integer sum in it."""
    if (found := memo.get(e)) is not None:
        return found
    out: Expr
    if _is_sum(e):
        constant, terms = linear(e)
        if e in terms:  # a product of two unknowns: not a sum after all
            out = rebuild(e, [_map_linear(c, change, memo) for c in children(e)])
        else:
            inner = {
                (a if isinstance(a, Index) else _map_linear(a, change, memo)): c for a, c in terms.items()
            }
            out = change(delinearised((constant, inner)))
        if isinstance(e, Index):
            out = change(e)
    elif children(e):
        out = rebuild(e, [_map_linear(c, change, memo) for c in children(e)])
    else:
        out = e
    memo[e] = out
    return out


def map_linear(s: Statement, change: Change) -> Statement:
    """``s`` with ``change`` applied to every largest integer sum in it."""
    memo: dict[Expr, Expr] = {}
    return mapped(s, lambda e: _map_linear(e, change, memo))


def tidied(body: Sequence[Statement]) -> list[Statement]:
    """``body`` without values nobody reads; those read once, at the same points, are put in place."""
    statements = list(body)
    while True:
        uses, readers = _uses(statements)
        kept = [s for s in statements if isinstance(s, Store) or uses.get(s.name, 0)]
        spans = _spans(kept)
        place: dict[str, Expr] = {}
        for s in kept:
            if isinstance(s, Let) and (uses[s.name] == 1 or _trivial(s.value)):
                live = [t for t in readers[s.name] if isinstance(t, Store) or uses.get(t.name)]
                if _trivial(s.value) or all(_span(parts(t), spans) == spans[s.name] for t in live):
                    place[s.name] = s.value
        if not place and len(kept) == len(statements):
            return statements
        statements = _inlined([s for s in kept if isinstance(s, Store) or s.name not in place], place)


def _uses(statements: Sequence[Statement]) -> tuple[dict[str, int], dict[str, list[Statement]]]:
    """How often each value is read, and by which statements."""
    uses: dict[str, int] = {}
    readers: dict[str, list[Statement]] = {}
    for s in statements:
        seen: set[Expr] = set()
        mine: dict[str, int] = {}
        for root in parts(s):
            if isinstance(root, Var):
                mine[root.name] = mine.get(root.name, 0) + 1
            for n in walk(root):
                if n in seen:
                    continue
                seen.add(n)
                for c in children(n):
                    if isinstance(c, Var):
                        mine[c.name] = mine.get(c.name, 0) + 1
        for name, count in mine.items():
            uses[name] = uses.get(name, 0) + count
            readers.setdefault(name, []).append(s)
    return uses, readers


def _trivial(e: Expr) -> bool:
    return isinstance(e, (Const, Index, Var)) or (
        isinstance(e, Load)
        and e.mask is None
        and all(isinstance(x, (Const, Index, Op)) and not _has_load(x) for x in e.index)
    )


def _has_load(e: Expr) -> bool:
    return any(isinstance(n, (Load, Var)) for n in walk(e))


def _span(expressions: Sequence[Expr], spans: Mapping[str, frozenset[str]]) -> frozenset[str]:
    found: set[str] = set()
    for e in expressions:
        for n in walk(e):
            if isinstance(n, Index):
                found.add(n.axis)
            elif isinstance(n, Var):
                found |= spans[n.name]
    return frozenset(found)


def _spans(statements: Sequence[Statement]) -> dict[str, frozenset[str]]:
    spans: dict[str, frozenset[str]] = {}
    for s in statements:
        if not isinstance(s, Store):
            axes = _span(parts(s), spans)
            spans[s.name] = axes - set(s.axes) if isinstance(s, Reduce) else axes
    return spans


def _inlined(statements: Sequence[Statement], place: Mapping[str, Expr]) -> list[Statement]:
    """``statements`` with values put in place of their names, also inside one another."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if (found := memo.get(e)) is None:
            if isinstance(e, Var):
                found = visit(place[e.name]) if e.name in place else e
            else:
                found = rebuild(e, [visit(c) for c in children(e)]) if children(e) else e
            memo[e] = found
        return found

    return [mapped(s, visit) for s in statements]


def anchor(body: Sequence[Statement]) -> str:
    """What kind of nest ``body`` is."""
    reduces = [s for s in body if isinstance(s, Reduce)]
    if any(isinstance(s, Scan) for s in body):
        return "scan"
    if reduces:
        spans = _spans(body)
        inner = {a for s in reduces for a in s.axes}
        wide = any(isinstance(s, Store) and _span(parts(s), spans) & inner for s in body)
        return "normalization" if wide else "reduction"
    if any(isinstance(s, Search) for s in body):
        return "search"
    if any(isinstance(s, Store) and (s.mode != "set" or any(map(_has_load, s.index))) for s in body):
        return "scatter"
    gathers = any(
        _has_load(i) for s in body for e in parts(s) for n in walk(e) if isinstance(n, Load) for i in n.index
    )
    return "gather" if gathers else "pointwise"
