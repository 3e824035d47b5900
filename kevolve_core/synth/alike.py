"""Steps that are one computation on other tensors: what an unrolled loop leaves behind.

Two steps are *alike* where they differ only in their names, in which buffers they access, and in constants
that are added to a position in a buffer (``x[17, i]`` and ``x[18, i]``). Such steps share one schedule, and a
renderer may print one function for all of them that is told what differs.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from attrs import define, evolve, field, frozen

from kevolve_core.ir import (
    Attention,
    Axis,
    Buffer,
    Const,
    Contract,
    Expr,
    Index,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Program,
    Reduce,
    Scan,
    Search,
    Statement,
    Step,
    Store,
    Var,
    children,
)
from kevolve_core.synth.index import delinearised, linear

__all__ = ["Likeness", "Offsets", "leaders", "likeness", "of_nest", "shifts"]


@frozen(eq=False)
class Likeness:
    """What a step computes, apart from names.

    Args:
        key: equal where steps are alike, and only there.
        buffers: those that the step mentions, in the order in which ``key`` numbers them.
        offsets: the constants that ``key`` leaves out, in its order.
        places: the first of its offsets, by access (a store by its number in the body).
    """

    key: Hashable
    buffers: tuple[str, ...]
    offsets: tuple[int, ...]
    places: Mapping[Load | int, int]


def leaders(programs: Sequence[Program]) -> Mapping[str, str]:
    """The first step, by name, of those that a step is alike with in every one of ``programs``; of
    most steps it is the step itself. One that not all of them have is like none that others have."""
    keys: dict[str, list[Hashable]] = {}
    for number, program in enumerate(programs):
        for step in program.steps:
            known = keys.setdefault(step.name, [])
            known += [None] * (number - len(known))
            known.append(likeness(step, program.buffers).key)
    first: dict[Hashable, str] = {}
    return {
        name: first.setdefault((*known, *[None] * (len(programs) - len(known))), name)
        for name, known in keys.items()
    }


def likeness(step: Step, buffers: Mapping[str, Buffer]) -> Likeness:
    """Of any step over ``buffers``."""
    if isinstance(step, LoopNest):
        return of_nest(step, buffers)
    if isinstance(step, LibraryCall):
        return _of_call(step, buffers)
    return _of_attention(step, buffers)


def of_nest(
    nest: LoopNest,
    buffers: Mapping[str, Buffer],
    more: Sequence[Expr | None] = (),
    axes: Sequence[Axis] = (),
) -> Likeness:
    """Of a nest, and of expressions that belong to it; ``axes`` are further ones which those mention."""
    form = _Form(buffers)
    return form.done("nest", form.nest(nest, more, axes))


def shifts(
    nest: LoopNest, first: Likeness, other: Likeness, buffers: Mapping[str, Buffer]
) -> Mapping[str, int] | None:
    """By buffer of ``nest``, whose likeness is ``first``: how many elements further in its own buffer the
    nest ``other``, which is alike, begins; None where accesses of one buffer are moved by different numbers
    of elements."""
    found: dict[str, int] = {}
    for access, place in first.places.items():
        at = nest.body[access] if isinstance(access, int) else access
        assert isinstance(at, Load | Store)
        stride = buffers[at.buffer].stride
        ends = zip(first.offsets[place:], other.offsets[place:], stride, strict=False)
        by = sum((new - old) * step for old, new, step in ends)
        if found.setdefault(at.buffer, by) != by:
            return None
    return found


def _of_call(call: LibraryCall, buffers: Mapping[str, Buffer]) -> Likeness:
    form = _Form(buffers)
    operands = []
    for o in call.operands:
        operands.append((form.slot(o.buffer), o.shape, o.strides))
        form.offsets.append(o.offset)
    results = tuple(form.slot(b) if b else -1 for b in (call.output, *call.outputs))
    epilogue = None if call.epilogue is None else form.nest(call.epilogue)
    attributes = repr(sorted(call.attributes.items()))
    parts = (call.op, tuple(operands), attributes, results, call.repeat, call.advance, call.order, epilogue)
    return form.done("call", parts)


def _of_attention(a: Attention, buffers: Mapping[str, Buffer]) -> Likeness:
    form = _Form(buffers)
    steps: list[Hashable] = []
    for step in a.steps:
        inner = likeness(step, buffers)
        steps += [inner.key, *(form.slot(b) for b in inner.buffers)]
        form.offsets += inner.offsets
    axes = (a.batch, a.rows, a.cols, a.depth, a.width)
    over = evolve(a.result, body=())
    values = form.nest(over, (a.query, a.key, a.value, a.score, a.unmasked), axes)
    result = form.nest(a.result)
    where = form.slot(a.product), form.slot(a.output)
    return form.done("attention", (tuple(steps), values, result, where, a.safe, a.sees))


@define
class _Form:
    """Collects what a step is made of, each part once: sharing is part of the form, so that two loads which
    one step takes from one place and another from two are not alike."""

    buffers: Mapping[str, Buffer]
    nodes: list[Hashable] = field(factory=list)
    offsets: list[int] = field(factory=list)
    places: dict[Load | int, int] = field(factory=dict)
    _slots: dict[str, int] = field(factory=dict)
    _numbers: dict[Expr, int] = field(factory=dict)
    _values: dict[str, int] = field(factory=dict)
    _axes: dict[str, int] = field(factory=dict)

    def done(self, kind: str, parts: Hashable) -> Likeness:
        laid: list[Hashable] = []
        for name in self._slots:
            b = self.buffers.get(name)
            laid.append(None if b is None else (b.shape, b.stride, b.dtype))
        key = (kind, tuple(self.nodes), tuple(laid), parts)
        return Likeness(key, tuple(self._slots), tuple(self.offsets), self.places)

    def slot(self, buffer: str) -> int:
        return self._slots.setdefault(buffer, len(self._slots))

    def nest(self, nest: LoopNest, more: Sequence[Expr | None] = (), axes: Sequence[Axis] = ()) -> Hashable:
        self._numbers, self._values = {}, {}
        known = {a.name: a.extent for a in (*nest.axes, *axes)}
        self._axes = {name: k for k, name in enumerate(known)}
        body = tuple(self._statement(s, k) for k, s in enumerate(nest.body))
        values = tuple(-1 if e is None else self._number(e) for e in more)
        return tuple(known.values()), len(nest.axes), nest.outer, nest.anchor, body, values

    def _statement(self, s: Statement, number: int) -> Hashable:
        if isinstance(s, Store):
            value, mask = self._number(s.value), -1 if s.mask is None else self._number(s.mask)
            for e in s.index:
                self._numbered(linear(e)[1])
            self.places[number] = len(self.offsets)
            return "store", self.slot(s.buffer), self._index(s.index), value, mask, s.mode
        parts: Hashable
        if isinstance(s, Let):
            parts = self._number(s.value)
        elif isinstance(s, Reduce):
            over = tuple(self._axes[a] for a in s.axes)
            parts = self._number(s.value), s.combiner, over, s.dtype, s.accumulate
        elif isinstance(s, Scan):
            parts = (
                self._number(s.value), s.combiner, self._axes[s.axis], s.dtype, s.accumulate, s.exclusive,
                s.reverse,
            )  # fmt: skip
        elif isinstance(s, Contract):
            over = tuple(self._axes[a] for a in s.axes)
            parts = self._number(s.left), self._number(s.right), over, s.dtype, s.accumulate
        else:
            index = tuple(self._number(e) for e in s.index)
            parts = self.slot(s.buffer), index, self._number(s.value), s.right, s.dtype
        self._values[s.name] = len(self._values)
        return type(s).__name__, parts

    def _numbered(self, roots: Iterable[Expr]) -> tuple[int, ...]:
        return tuple(self._number(e) for e in roots)

    def _number(self, root: Expr) -> int:
        stack = [root]
        while stack:
            e = stack[-1]
            if e in self._numbers:
                stack.pop()
                continue
            missing = [c for c in _below(e) if c not in self._numbers]
            if missing:
                stack += reversed(missing)
                continue
            stack.pop()
            self.nodes.append(self._node(e))
            self._numbers[e] = len(self.nodes) - 1
        return self._numbers[root]

    def _node(self, e: Expr) -> Hashable:
        if isinstance(e, Const):
            return "const", repr(e.value), e.dtype  # as text: 0 is not False, and NaN is NaN
        if isinstance(e, Index):
            return "index", self._axes[e.axis], e.dtype
        if isinstance(e, Var):
            return "var", self._values[e.name], e.dtype
        if isinstance(e, Op):
            return e.name, e.dtype, self._numbered(e.args)
        mask, other = (-1 if x is None else self._number(x) for x in (e.mask, e.other))
        self.places[e] = len(self.offsets)
        return "load", self.slot(e.buffer), e.dtype, self._index(e.index), mask, other

    def _index(self, index: Sequence[Expr]) -> Hashable:
        """The index of an access without its constants, which are noted."""
        found: list[Hashable] = []
        for e in index:
            constant, terms = linear(e)
            self.offsets.append(constant)
            found.append(tuple((self._numbers[atom], k) for atom, k in terms.items()))
        return tuple(found)


def _below(e: Expr) -> Sequence[Expr]:
    """What ``e`` is made of; of an access's index only what is no constant."""
    if not isinstance(e, Load):
        return children(e)
    atoms = [atom for i in e.index for atom in linear(i)[1]]
    return (*atoms, *(x for x in (e.mask, e.other) if x is not None))


@frozen
class Offsets:
    """What several steps that are alike differ in: a loop index for every way in which constants move.

    Args:
        axes: the indices, named ``at0``, ``at1``, …
        values: what each step's are, step by step.
        changes: place of an offset -> (constant, the index that moves it, its coefficient).
    """

    axes: tuple[Axis, ...]
    values: tuple[tuple[int, ...], ...]
    changes: Mapping[int, tuple[int, str, int]]

    @classmethod
    def of(cls, members: Sequence[Likeness]) -> Offsets:
        """``members`` are alike. Coefficients are as large as they can be, so that what they say about
        alignment is known when the step is compiled."""
        axes: dict[tuple[int, ...], Axis] = {}
        changes: dict[int, tuple[int, str, int]] = {}
        for place, moved in enumerate(zip(*(m.offsets for m in members), strict=True)):
            if len(set(moved)) == 1:
                continue
            least = min(moved)
            by = math.gcd(*(n - least for n in moved))
            steps = tuple((n - least) // by for n in moved)
            axis = axes.setdefault(steps, Axis(f"at{len(axes)}", max(steps) + 1))
            changes[place] = least, axis.name, by
        values = tuple(zip(*axes, strict=True)) if axes else tuple(() for _ in members)
        return cls(tuple(axes.values()), values, changes)

    def nest(self, nest: LoopNest, known: Likeness) -> LoopNest:
        """``nest``, whose likeness is ``known``, for all of the steps: `axes` are its indices too, though
        not its loops."""
        memo: dict[Expr, Expr] = {}
        return evolve(nest, body=tuple(self._stated(s, k, known, memo) for k, s in enumerate(nest.body)))

    def value(self, e: Expr, known: Likeness) -> Expr:
        """The same of an expression that belongs to the nest."""
        return self._changed(e, known, {})

    def _stated(self, s: Statement, number: int, known: Likeness, memo: dict[Expr, Expr]) -> Statement:
        def change(e: Expr) -> Expr:
            return self._changed(e, known, memo)

        if isinstance(s, Store):
            index = self._moved(s.index, known.places[number], known, memo)
            return evolve(
                s, index=index, value=change(s.value), mask=None if s.mask is None else change(s.mask)
            )
        if isinstance(s, Contract):
            return evolve(s, left=change(s.left), right=change(s.right))
        if isinstance(s, Search):
            return evolve(s, index=tuple(change(e) for e in s.index), value=change(s.value))
        return evolve(s, value=change(s.value))

    def _moved(
        self, index: Sequence[Expr], first: int, known: Likeness, memo: dict[Expr, Expr]
    ) -> tuple[Expr, ...]:
        out: list[Expr] = []
        for k, e in enumerate(index):
            constant, terms = linear(e)
            new: dict[Expr, int] = {self._changed(a, known, memo): c for a, c in terms.items()}
            if (change := self.changes.get(first + k)) is not None:
                constant, axis, by = change
                new[Index(axis)] = by
            out.append(e if change is None and list(new) == list(terms) else delinearised((constant, new)))
        return tuple(out)

    def _changed(self, e: Expr, known: Likeness, memo: dict[Expr, Expr]) -> Expr:
        if e in memo:
            return memo[e]
        out = e
        if isinstance(e, Op):
            out = evolve(e, args=tuple(self._changed(a, known, memo) for a in e.args))
        elif isinstance(e, Load):
            mask, other = (None if x is None else self._changed(x, known, memo) for x in (e.mask, e.other))
            index = self._moved(e.index, known.places[e], known, memo)
            out = Load(e.buffer, index, e.dtype, mask, other)
        memo[e] = out
        return out
