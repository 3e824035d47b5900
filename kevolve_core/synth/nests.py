"""A fusion group becomes a `LoopNest`: statements, loops in order, loops merged where accesses allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import define, evolve, field

from kevolve_core.ir import (
    Axis,
    Buffer,
    Const,
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
    Var,
    axes_of,
    children,
    vars_of,
    walk,
)
from kevolve_core.synth.fuse import Fusion, Group
from kevolve_core.synth.index import ZERO, Indexer, delinearised, linear, rebuild
from kevolve_core.synth.inline import Inliner
from kevolve_core.synth.lower import Def

__all__ = ["Layout", "NestBuilder"]


@define
class Layout:
    """How a tensor is indexed in a program: dimensions that are contiguous with one another are one.

    ``groups`` lists the logical dimensions of each dimension of the buffer.
    """

    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    buffer: Buffer

    @classmethod
    def of(
        cls, name: str, shape: Sequence[int], strides: Sequence[int] | None, dtype: str, role: str, keep_last: bool, **more: object
    ) -> Layout:
        """The collapsed layout of a tensor; ``keep_last`` keeps its last dimension apart."""
        dense = _contiguous(shape)
        steps = tuple(dense if strides is None else strides)
        contiguous = all(s == t for s, t, n in zip(steps, dense, shape, strict=True) if n != 1)
        groups: list[list[int]] = []
        last = len(shape) - 1
        for d, n in enumerate(shape):
            if n == 1 and not (keep_last and d == last):
                continue
            previous = groups[-1][-1] if groups else -1
            joins = groups and steps[previous] == steps[d] * n and not (keep_last and d == last)
            if joins:
                groups[-1].append(d)
            else:
                groups.append([d])
        buffer = Buffer(name, tuple(shape), dtype, role, strides=None if contiguous else steps, **more)  # type: ignore[arg-type]
        return cls(tuple(shape), tuple(tuple(g) for g in groups), buffer)

    def flat(self, ix: Indexer, logical: Sequence[Expr]) -> tuple[Expr, ...]:
        """The index with the position in each run of dimensions in its last, 0 in the others."""
        out: list[Expr] = [ZERO] * len(self.shape)
        for g in self.groups:
            out[g[-1]] = ix.ravel([logical[d] for d in g], [self.shape[d] for d in g])
        return tuple(out)

    def spread(self, ix: Indexer, flat: Sequence[Expr]) -> tuple[Expr, ...]:
        """A flat index with one position a dimension, where that needs no division."""
        out = list(flat)
        for g in self.groups:
            parts = ix.unravel(flat[g[-1]], [self.shape[d] for d in g])
            if not any(_divides(p) for p in parts):
                for d, e in zip(g, parts, strict=True):
                    out[d] = e
        return tuple(out)


def _divides(e: Expr) -> bool:
    """Whether a division is among the terms of ``e`` (one inside a looked-up position does not count)."""
    return any(isinstance(a, Op) and a.name in {"floordiv", "remainder"} for a in linear(e)[1])


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    steps: list[int] = []
    step = 1
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))


@define
class NestBuilder:
    """Builds the nests of one program over shared buffer layouts."""

    fusion: Fusion
    layout: Callable[[str], Layout]
    in_memory: Callable[[str], bool]
    names: dict[str, int] = field(factory=dict)
    _by_buffer: dict[str, Layout] = field(factory=dict)

    @property
    def ix(self) -> Indexer:
        return self.fusion.ix

    def build(self, group: Group, keep_first: str = "") -> LoopNest:
        """The nest of ``group``. ``keep_first`` names a buffer whose first dimension is to stay a loop of its
        own (the output of a library call whose epilogue this is)."""
        body, covers = self._body(group)
        order = self._axis_order(group)
        outer = [a for a in order if group.outer is None or a in group.outer]
        inner = [a for a in order if a not in outer]
        body = tidied(body)
        body = [_rewritten(s, self._buffer_load) for s in body]
        barrier = self._first_axis(body, keep_first, outer) if keep_first else ""
        body, outer, inner = self._merged(body, outer, inner, barrier)
        body = [_rewritten(s, self._spread) for s in body]
        if group.outer is None and len(outer) > 1:
            inner, outer = [outer[-1]], outer[:-1]
        final = {a: f"i{k}" for k, a in enumerate(outer)} | {a: f"j{k}" for k, a in enumerate(inner)}
        axes = tuple(Axis(final[a], self.ix.extents[a]) for a in (*outer, *inner))
        body = [_renamed(s, final) for s in body]
        nest = LoopNest(self._name(group), axes, len(outer), tuple(body), covers, _anchor(body))
        nest.validate()
        return nest

    def _name(self, group: Group) -> str:
        base = _identifier(self.fusion.defs[group.members[-1]].node.lstrip("_"))
        n = self.names.get(base, 0)
        self.names[base] = n + 1
        return f"k_{base}" if not n else f"k_{base}_{n}"

    # --- statements -----------------------------------------------------------------------------------------

    def _body(self, group: Group) -> tuple[list[Statement], tuple[str, ...]]:
        defs = self.fusion.defs
        inside = set(group.members)
        values: dict[str, Expr] = {}

        def resolve(load: Load) -> Expr | None:
            if load.buffer not in inside:
                return load
            if load.buffer in values:
                return values[load.buffer]
            return None  # a stored pointwise member: evaluated here, at this very index

        inliner = Inliner(defs, self.ix, self.fusion.is_leaf, resolve)
        align = self._alignment(group)
        for name in group.members:
            d = defs[name]
            by = self._placement(d, group, align)
            axes = tuple(self.ix.substitute(a, by) for a in d.axes)
            if d.kind in {"reduce", "scan"}:
                value = inliner.evaluated(d, by)
                values[name] = self._combine(inliner, d, value, group, align)
                result = values[name]
            else:
                result = inliner.at(d, axes)
            if self.in_memory(name):
                inliner.body.append(Store(name, axes, result))
        ordered = sorted(inliner.covers, key=self.fusion.order.__getitem__)
        return inliner.body, tuple(dict.fromkeys(defs[n].node for n in ordered))

    def _combine(self, inliner: Inliner, d: Def, value: Expr, group: Group, align: Mapping[str, str]) -> Expr:
        axes = tuple(self._axis(a, group, align) for a in self.fusion.axes.reduced(d))
        name = inliner.name(d.name)
        if d.kind == "scan":
            inliner.body.append(
                Scan(name, d.combiner, value, axes[0], d.dtype, d.accumulate, d.exclusive, d.reverse)
            )
        else:
            inliner.body.append(Reduce(name, d.combiner, value, axes, d.dtype, d.accumulate))
        return Var(name, d.dtype)

    def _axis(self, piece: str, group: Group, align: Mapping[str, str]) -> str:
        own = group.classes[piece]
        return align.get(own, own)

    def _placement(self, d: Def, group: Group, align: Mapping[str, str]) -> dict[str, Expr]:
        """``d``'s own axes in terms of the group's."""
        pieces = {
            p: Index(self._axis(p, group, align)) for a in (*d.free, *d.raxes) for p in self.fusion.axes.pieces(a)
        }
        by = self.fusion.axes.substitution(d)
        return {a: self.ix.substitute(e, pieces) for a, e in by.items()}

    def _primary(self, group: Group) -> Def:
        """The member whose own axes order the loops: the stored tensor with the most axes."""
        defs = [self.fusion.defs[n] for n in group.members]
        return max(defs, key=lambda d: (len(self._all_axes(d)), d.kind == "point"))

    def _all_axes(self, d: Def) -> tuple[str, ...]:
        free = self.fusion.axes.of(d)
        return free if d.kind == "scan" else (*free, *self.fusion.axes.reduced(d))

    def _alignment(self, group: Group) -> dict[str, str]:
        """Inner axes of other members that become the primary's: the same loops, one after another."""
        if group.outer is None:
            return {}
        extents = self.ix.extents
        primary = self._primary(group)
        lead = [group.classes[a] for a in self._all_axes(primary) if group.classes[a] not in group.outer]
        align: dict[str, str] = {}
        for name in group.members:
            own = [group.classes[a] for a in self._all_axes(self.fusion.defs[name])]
            own = [a for a in own if a not in group.outer and a not in align]
            missing = [a for a in own if a not in lead]
            free = [a for a in lead if a not in own]
            if [extents[a] for a in missing] == [extents[a] for a in free]:
                align.update(zip(missing, free, strict=True))
                continue
            for a in missing:
                same = [b for b in free if extents[b] == extents[a]]
                if same:
                    align[a] = same[0]
                    free.remove(same[0])
                else:
                    lead.append(a)
        return align

    def _axis_order(self, group: Group) -> list[str]:
        align = self._alignment(group)
        members = [self.fusion.defs[n] for n in group.members]
        primary = self._primary(group)
        order: dict[str, None] = {}
        for d in (primary, *members):
            for a in self._all_axes(d):
                order[self._axis(a, group, align)] = None
        return list(order)

    def _buffer_load(self, e: Expr) -> Expr:
        if isinstance(e, Load):
            layout = self.layout(e.buffer)
            self._by_buffer[layout.buffer.name] = layout
            return evolve(e, index=layout.flat(self.ix, e.index), buffer=layout.buffer.name)
        return e

    def _spread(self, e: Expr) -> Expr:
        if isinstance(e, Load):
            return evolve(e, index=self._by_buffer[e.buffer].spread(self.ix, e.index))
        return e

    # --- loops ----------------------------------------------------------------------------------------------

    def _first_axis(self, body: Sequence[Statement], buffer: str, outer: list[str]) -> str:
        """The outer axis that is the first dimension of ``buffer``: made the slowest, and kept apart."""
        del body, buffer
        return outer[0] if outer else ""

    def _merged(
        self, body: list[Statement], outer: list[str], inner: list[str], barrier: str
    ) -> tuple[list[Statement], list[str], list[str]]:
        """Adjacent axes that every access walks as one become one."""
        changed = True
        while changed:
            changed = False
            for axes in (outer, inner):
                for slow, fast in zip(axes, axes[1:], strict=False):
                    if slow == barrier or not self._mergeable(body, slow, fast):
                        continue
                    new = self.ix.axis(self.ix.extents[slow] * self.ix.extents[fast])
                    body = [self._with_merged(s, slow, fast, new) for s in body]
                    k = axes.index(slow)
                    axes[k : k + 2] = [new.axis]
                    changed = True
                    break
        return body, outer, inner

    def _mergeable(self, body: Sequence[Statement], slow: str, fast: str) -> bool:
        n = self.ix.extents[fast]
        for s in body:
            if isinstance(s, Reduce):
                both = [a for a in s.axes if a in (slow, fast)]
                if both and both != [slow, fast]:
                    return False
                if both and s.axes.index(fast) != s.axes.index(slow) + 1:
                    return False
            if isinstance(s, Scan) and s.axis in (slow, fast):
                return False
            for e in _parts(s):
                for form in _maximal_linear(e):
                    a, b = form.get(slow, 0), form.get(fast, 0)
                    if a != b * n:
                        return False
        return True

    def _with_merged(self, s: Statement, slow: str, fast: str, new: Index) -> Statement:
        def change(e: Expr) -> Expr:
            constant, terms = linear(e)
            if Index(fast) not in terms:
                return e
            kept: dict[Expr, int] = {a: c for a, c in terms.items() if a not in {Index(slow), Index(fast)}}
            kept[new] = terms[Index(fast)]
            return delinearised((constant, kept))

        out = _map_linear_statement(s, change)
        if isinstance(out, Reduce) and fast in out.axes:
            out = evolve(out, axes=tuple(new.axis if a == slow else a for a in out.axes if a != fast))
        return out


def _parts(s: Statement) -> tuple[Expr, ...]:
    if isinstance(s, (Let, Reduce, Scan)):
        return (s.value,)
    if isinstance(s, Search):
        return (*s.index, s.value)
    if isinstance(s, Store):
        return (*s.index, s.value, *(() if s.mask is None else (s.mask,)))
    return (s.left, s.right)


def _rewritten(s: Statement, change: Callable[[Expr], Expr]) -> Statement:
    """``s`` with ``change`` applied to every subexpression, children first. Store and Search keep logical
    indices of their own buffer: those go through ``change`` as a load of it."""
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if (found := memo.get(e)) is None:
            found = change(rebuild(e, [visit(c) for c in children(e)]) if children(e) else e)
            memo[e] = found
        return found

    if isinstance(s, Store):
        place = change(Load(s.buffer, tuple(visit(i) for i in s.index), s.value.dtype))
        assert isinstance(place, Load)
        return evolve(s, buffer=place.buffer, index=place.index, value=visit(s.value))
    if isinstance(s, Search):
        row = change(Load(s.buffer, (*(visit(i) for i in s.index), Const(0, "int64")), s.value.dtype))
        assert isinstance(row, Load)
        return evolve(s, buffer=row.buffer, index=row.index[:-1], value=visit(s.value))
    if isinstance(s, (Let, Reduce, Scan)):
        return evolve(s, value=visit(s.value))
    return evolve(s, left=visit(s.left), right=visit(s.right))


def _is_sum(e: Expr) -> bool:
    return isinstance(e, Index) or (isinstance(e, Op) and e.dtype == "int64" and e.name in {"add", "sub", "mul", "neg"})


def _maximal_linear(e: Expr) -> list[dict[str, int]]:
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
            stack.extend(c for a in terms if not isinstance(a, Index) for c in ([a] if a != x else children(a)))
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


def _map_linear_statement(s: Statement, change: Callable[[Expr], Expr]) -> Statement:
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        return _map_linear(e, change, memo)

    if isinstance(s, Store):
        return evolve(
            s, index=tuple(visit(i) for i in s.index), value=visit(s.value), mask=None if s.mask is None else visit(s.mask)
        )
    if isinstance(s, Search):
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value))
    if isinstance(s, (Let, Reduce, Scan)):
        return evolve(s, value=visit(s.value))
    return evolve(s, left=visit(s.left), right=visit(s.right))


def _renamed(s: Statement, names: Mapping[str, str]) -> Statement:
    def change(e: Expr) -> Expr:
        return Index(names[e.axis]) if isinstance(e, Index) else e

    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if (found := memo.get(e)) is None:
            found = change(rebuild(e, [visit(c) for c in children(e)]) if children(e) else e)
            memo[e] = found
        return found

    if isinstance(s, Store):
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value))
    if isinstance(s, Search):
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value))
    if isinstance(s, Reduce):
        return evolve(s, value=visit(s.value), axes=tuple(names[a] for a in s.axes))
    if isinstance(s, Scan):
        return evolve(s, value=visit(s.value), axis=names[s.axis])
    if isinstance(s, Let):
        return evolve(s, value=visit(s.value))
    return evolve(s, left=visit(s.left), right=visit(s.right), axes=tuple(names[a] for a in s.axes))


def tidied(body: Sequence[Statement]) -> list[Statement]:
    """``body`` without values nobody reads; those read once, at the same points, are put in place."""
    statements = list(body)
    while True:
        uses: dict[str, int] = {}
        for s in statements:
            seen: set[Expr] = set()
            for root in _parts(s):
                if isinstance(root, Var):
                    uses[root.name] = uses.get(root.name, 0) + 1
                for n in walk(root):
                    if n in seen:
                        continue
                    seen.add(n)
                    for c in children(n):
                        if isinstance(c, Var):
                            uses[c.name] = uses.get(c.name, 0) + 1
        spans = _spans(statements)
        for k, s in enumerate(statements):
            if isinstance(s, Store):
                continue
            count = uses.get(s.name, 0)
            if not count:
                del statements[k]
                break
            if isinstance(s, Let) and (count == 1 or _trivial(s.value)):
                readers = [t for t in statements if s.name in {v for e in _parts(t) for v in vars_of(e)}]
                if _trivial(s.value) or all(_reads_at(t, spans) == spans[s.name] for t in readers):
                    statements = [_inlined(t, s.name, s.value) for t in statements if t is not s]
                    break
        else:
            return statements


def _trivial(e: Expr) -> bool:
    return isinstance(e, (Const, Index, Var)) or (
        isinstance(e, Load) and e.mask is None and all(isinstance(x, (Const, Index, Op)) and not _has_load(x) for x in e.index)
    )


def _has_load(e: Expr) -> bool:
    return any(isinstance(n, (Load, Var)) for n in walk(e))


def _span(expressions: Sequence[Expr], spans: Mapping[str, frozenset[str]]) -> frozenset[str]:
    found: set[str] = set()
    for e in expressions:
        found |= axes_of(e)
        for v in vars_of(e):
            found |= spans[v]
    return frozenset(found)


def _spans(statements: Sequence[Statement]) -> dict[str, frozenset[str]]:
    spans: dict[str, frozenset[str]] = {}
    for s in statements:
        if not isinstance(s, Store):
            axes = _span(_parts(s), spans)
            spans[s.name] = axes - set(s.axes) if isinstance(s, Reduce) else axes
    return spans


def _reads_at(s: Statement, spans: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return _span(_parts(s), spans)


def _inlined(s: Statement, name: str, value: Expr) -> Statement:
    return _plain_rewrite(s, lambda e: value if isinstance(e, Var) and e.name == name else e)


def _plain_rewrite(s: Statement, change: Callable[[Expr], Expr]) -> Statement:
    memo: dict[Expr, Expr] = {}

    def visit(e: Expr) -> Expr:
        if (found := memo.get(e)) is None:
            found = change(rebuild(e, [visit(c) for c in children(e)]) if children(e) else e)
            memo[e] = found
        return found

    if isinstance(s, Store):
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value))
    if isinstance(s, Search):
        return evolve(s, index=tuple(visit(i) for i in s.index), value=visit(s.value))
    if isinstance(s, (Let, Reduce, Scan)):
        return evolve(s, value=visit(s.value))
    return evolve(s, left=visit(s.left), right=visit(s.right))


def _anchor(body: Sequence[Statement]) -> str:
    reduces = [s for s in body if isinstance(s, Reduce)]
    if any(isinstance(s, Scan) for s in body):
        return "scan"
    if reduces:
        spans = _spans(body)
        inner = {a for s in reduces for a in s.axes}
        wide = any(isinstance(s, Store) and _span(_parts(s), spans) & inner for s in body)
        return "normalization" if wide else "reduction"
    if any(isinstance(s, Search) for s in body):
        return "search"
    gathers = any(_has_load(i) for s in body for e in _parts(s) for n in walk(e) if isinstance(n, Load) for i in n.index)
    return "gather" if gathers else "pointwise"


def _identifier(name: str) -> str:
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return clean if clean and not clean[0].isdigit() else f"n_{clean}"
