"""Brings a nest into the form the printer works on: flat addresses, few axes, parallel axes outside.

None of it changes what is computed:

- every load, store and search addresses its buffer by one element offset;
- a `Contract` becomes a sum of products;
- an inner axis that no statement reduces or scans along, and that every reduction, scan and store
spans, holds independent points: it becomes an outer axis;
- neighbouring axes that are contiguous in every access become one.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Axis,
    Buffer,
    Const,
    Contract,
    Expr,
    Index,
    Let,
    Load,
    LoopNest,
    Op,
    Reduce,
    Scan,
    Search,
    Statement,
    Store,
    children,
)
from kevolve_cpu.render.affine import Affine, affine_lets, analyse, offset_of

__all__ = ["CHEAP", "Tidy", "consumed", "crosses", "expressions", "tidy", "uses"]


#: operators of one or two instructions a vector
CHEAP = frozenset(["add", "sub", "mul", "cast", "where", "min", "max", "neg", "abs", "relu"])


@frozen
class Tidy:
    """A nest in the printer's form, and the buffers as that form addresses them (one dimension, stride 1)."""

    nest: LoopNest
    buffers: Mapping[str, Buffer]


def expressions(s: Statement) -> tuple[Expr, ...]:
    """Direct expressions of a statement."""
    if isinstance(s, (Let, Reduce, Scan)):
        return (s.value,)
    if isinstance(s, Contract):
        return (s.left, s.right)
    if isinstance(s, Search):
        return (*s.index, s.value)
    return (*s.index, s.value, *(() if s.mask is None else (s.mask,)))


def uses(roots: tuple[Expr, ...]) -> list[Expr]:
    """Every distinct subexpression object below ``roots``."""
    seen: dict[int, Expr] = {}
    stack = list(roots)
    while stack:
        e = stack.pop()
        if id(e) not in seen:
            seen[id(e)] = e
            stack.extend(children(e))
    return list(seen.values())


def tidy(nest: LoopNest, buffers: Mapping[str, Buffer], keep_first: bool = False) -> Tidy:
    """The nest in the printer's form. With ``keep_first`` the outermost axis stays as it is."""
    nest.validate()
    nest = evolve(nest, body=tuple(_without_contract(s) for s in nest.body))
    flat = _flatten(nest, buffers)
    flat = _promote(flat)
    while (merged := _merge_once(flat, keep_first)) is not None:
        flat = merged
    touched = {b.name: b for b in buffers.values()}
    return Tidy(flat, {n: evolve(b, shape=(b.size,), strides=(1,)) for n, b in touched.items()})


def _without_contract(s: Statement) -> Statement:
    if not isinstance(s, Contract):
        return s
    left, right = (
        e if e.dtype == s.accumulate else Op("cast", (e,), s.accumulate) for e in (s.left, s.right)
    )
    return Reduce(s.name, "sum", Op("mul", (left, right), s.accumulate), s.axes, s.dtype, s.accumulate)


def _expression(form: Affine) -> Expr:
    """An integer expression with this affine form."""
    total: Expr | None = None
    for axis, k in form.terms.items():
        total = _sum(total, Index(axis), k)
    for e, k in form.rest:
        total = _sum(total, e, k)
    if total is None:
        return Const(form.constant, "int64")
    return _sum(total, Const(form.constant, "int64"), 1) if form.constant else total


def _sum(total: Expr | None, e: Expr, k: int) -> Expr:
    term = e if k == 1 else Op("mul", (e, Const(k, "int64")), "int64")
    return term if total is None else Op("add", (total, term), "int64")


def _rewrite(s: Statement, change: _Rewriter) -> Statement:
    if isinstance(s, (Let, Reduce, Scan)):
        return evolve(s, value=change(s.value))
    if isinstance(s, Search):
        return evolve(s, index=change.row(s), value=change(s.value))
    if isinstance(s, Store):
        mask = None if s.mask is None else change(s.mask)
        return evolve(s, index=change.at(s.buffer, s.index), value=change(s.value), mask=mask)
    raise UnsupportedError(f"statement {type(s).__name__} in the C++ renderer", got=s)


class _Rewriter:
    """Rebuilds expressions with flat addresses; shared objects stay shared."""

    def __init__(self, buffers: Mapping[str, Buffer], lets: Mapping[str, Affine]) -> None:
        self.buffers = buffers
        self.lets = lets
        self.done: dict[int, tuple[Expr, Expr]] = {}

    def __call__(self, e: Expr) -> Expr:
        if id(e) not in self.done:
            self.done[id(e)] = (e, self._new(e))
        return self.done[id(e)][1]

    def _new(self, e: Expr) -> Expr:
        if isinstance(e, Load):
            mask = None if e.mask is None else self(e.mask)
            other = None if e.other is None else self(e.other)
            return Load(e.buffer, self.at(e.buffer, e.index), e.dtype, mask, other)
        if isinstance(e, Op):
            return evolve(e, args=tuple(self(a) for a in e.args))
        return e

    def at(self, buffer: str, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
        form = offset_of(self.buffers[buffer], tuple(self(i) for i in index), self.lets)
        return (_expression(form),)

    def row(self, s: Search) -> tuple[Expr, ...]:
        b = self.buffers[s.buffer]
        if b.shape and b.stride[-1] != 1 and b.shape[-1] > 1:
            raise UnsupportedError(
                f"search in '{s.buffer}', whose rows are not contiguous",
                where=f"value {s.name}",
                mend="make the searched tensor contiguous",
            )
        form = offset_of(
            evolve(b, shape=b.shape[:-1], strides=b.stride[:-1]), tuple(self(i) for i in s.index), self.lets
        )
        return (_expression(form),)


def _flatten(nest: LoopNest, buffers: Mapping[str, Buffer]) -> LoopNest:
    change = _Rewriter(buffers, affine_lets(nest))
    return evolve(nest, body=tuple(_rewrite(s, change) for s in nest.body))


def crosses(nest: LoopNest, axis: str) -> bool:
    """Whether a load runs along another axis in memory than ``axis``, as in a transposition: what neighbours
    along ``axis`` read then lies in lines of its own, which the next points of the other axis read again."""
    for s in nest.body:
        for e in uses(expressions(s)):
            if isinstance(e, Load) and e.index:
                fast = analyse(e.index[-1], {})
                there = any(axis in analyse(i, {}).terms for i in e.index)
                if there and fast.stride(axis) != 1 and 1 in fast.terms.values():
                    return True
    return False


def consumed(nest: LoopNest) -> frozenset[str]:
    """Axes that a statement reduces over or scans along."""
    found: set[str] = set()
    for s in nest.body:
        if isinstance(s, (Reduce, Contract)):
            found |= set(s.axes)
        elif isinstance(s, Scan):
            found.add(s.axis)
    return frozenset(found)


def _promote(nest: LoopNest) -> LoopNest:
    taken = consumed(nest)
    sinks = [nest.span(s) for s in nest.body if isinstance(s, (Reduce, Scan, Store))]
    free = [a for a in nest.inner_axes if a.name not in taken and all(a.name in span for span in sinks)]
    if not free:
        return nest
    rest = [a for a in nest.inner_axes if a not in free]
    return evolve(nest, axes=(*nest.outer_axes, *free, *rest), outer=nest.outer + len(free))


def _accesses(nest: LoopNest) -> list[Affine]:
    forms: list[Affine] = []
    for s in nest.body:
        for e in uses(expressions(s)):
            if isinstance(e, Load):
                forms.append(analyse(e.index[0], {}))
        if isinstance(s, (Store, Search)):
            forms.append(analyse(s.index[0], {}))
    return forms


def _plain_indices(nest: LoopNest) -> set[str]:
    """Axes whose value is used other than in an affine address."""
    inside: set[int] = set()
    found: set[str] = set()
    for s in nest.body:
        roots = list(expressions(s))
        if isinstance(s, (Store, Search)):
            inside.add(id(s.index[0]))
        for e in uses(tuple(roots)):
            if isinstance(e, Load):
                inside.add(id(e.index[0]))
    stack: list[Expr] = [e for s in nest.body for e in expressions(s)]
    seen: set[int] = set()
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if id(e) in inside:
            stack.extend(r for r, _ in analyse(e, {}).rest)
        elif isinstance(e, Index):
            found.add(e.axis)
        else:
            stack.extend(children(e))
    return found


def _merge_once(nest: LoopNest, keep_first: bool) -> LoopNest | None:
    """``nest`` with one pair of neighbouring axes made one, or None where there is none."""
    forms = _accesses(nest)
    plain = _plain_indices(nest)
    for i, (a, b) in enumerate(zip(nest.axes, nest.axes[1:], strict=False)):
        if i + 1 == nest.outer or (keep_first and i == 0) or a.name in plain or b.name in plain:
            continue
        same_reductions = all(
            (a.name in s.axes) == (b.name in s.axes) for s in nest.body if isinstance(s, Reduce)
        )
        scanned = any(isinstance(s, Scan) and s.axis in (a.name, b.name) for s in nest.body)
        positional = any(isinstance(s, Reduce) and s.combiner.startswith("arg") for s in nest.body)
        if not same_reductions or scanned or positional:
            continue
        if all(f.stride(a.name) == f.stride(b.name) * b.extent for f in forms):
            return _merged(nest, i)
    return None


def _merged(nest: LoopNest, i: int) -> LoopNest:
    a, b = nest.axes[i], nest.axes[i + 1]
    change = _DropAxis(a.name)
    body = []
    for s in nest.body:
        new = _map_statement(s, change)
        if isinstance(new, Reduce):
            new = evolve(new, axes=tuple(x for x in new.axes if x != a.name))
        body.append(new)
    axes = (*nest.axes[:i], Axis(b.name, a.extent * b.extent), *nest.axes[i + 2 :])
    return evolve(nest, axes=axes, outer=nest.outer - (i < nest.outer), body=tuple(body))


class _DropAxis:
    """Removes an axis from flat addresses: the merged axis counts on with its neighbour's stride."""

    def __init__(self, axis: str) -> None:
        self.axis = axis
        self.done: dict[int, tuple[Expr, Expr]] = {}

    def __call__(self, e: Expr) -> Expr:
        if id(e) not in self.done:
            self.done[id(e)] = (e, self._new(e))
        return self.done[id(e)][1]

    def _new(self, e: Expr) -> Expr:
        if isinstance(e, Load):
            mask = None if e.mask is None else self(e.mask)
            other = None if e.other is None else self(e.other)
            return Load(e.buffer, (self.address(e.index[0]),), e.dtype, mask, other)
        if isinstance(e, Op):
            return evolve(e, args=tuple(self(a) for a in e.args))
        return e

    def address(self, e: Expr) -> Expr:
        form = analyse(e, {})
        terms = {x: k for x, k in form.terms.items() if x != self.axis}
        return _expression(Affine(form.constant, terms, tuple((self(r), k) for r, k in form.rest)))


def _map_statement(s: Statement, change: _DropAxis) -> Statement:
    if isinstance(s, (Let, Reduce, Scan)):
        return evolve(s, value=change(s.value))
    if isinstance(s, Search):
        return evolve(s, index=(change.address(s.index[0]),), value=change(s.value))
    if isinstance(s, Store):
        mask = None if s.mask is None else change(s.mask)
        return evolve(s, index=(change.address(s.index[0]),), value=change(s.value), mask=mask)
    raise UnsupportedError(f"statement {type(s).__name__} in the C++ renderer", got=s)
