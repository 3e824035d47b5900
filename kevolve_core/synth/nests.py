"""A fusion group becomes a `LoopNest`: statements, loops in order, loops merged where accesses allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from attrs import define, evolve, field

from kevolve_core.ir import Axis, Expr, Index, Load, LoopNest, Reduce, Scan, Statement, Store, Var, walk
from kevolve_core.synth.fuse import Fusion, Group
from kevolve_core.synth.index import ZERO, Indexer, delinearised, integer, linear
from kevolve_core.synth.inline import Inliner
from kevolve_core.synth.layout import Layout
from kevolve_core.synth.lower import Def
from kevolve_core.synth.segments import MOST, Segments, breaks, chosen, divided, placed
from kevolve_core.synth.statements import (
    anchor,
    map_linear,
    maximal_linear,
    parts,
    renamed,
    tidied,
    with_buffers,
)

__all__ = ["NestBuilder"]


@define
class NestBuilder:
    """Builds the nests of one program over shared buffer layouts."""

    fusion: Fusion
    layout: Callable[[str], Layout]
    in_memory: Callable[[str], bool]
    cut: bool = True  # whether loops may be cut into segments
    names: dict[str, int] = field(factory=dict)
    _by_buffer: dict[str, Layout] = field(factory=dict)

    @property
    def ix(self) -> Indexer:
        return self.fusion.ix

    def nests(self, group: Group) -> list[LoopNest]:
        """The nest of ``group``; several where its loops are cut into many segments."""
        order, places = self._order(group)
        segments = self._segments(group, order)
        parts: list[Segments | None] = [None] if segments is None else [*divided(segments)]
        return [self._nest(group, order, places, part, self._name(group)) for part in parts]

    def epilogue(self, group: Group) -> LoopNest | None:
        """The nest of ``group``, whose slowest loop is not merged with others: an epilogue runs tile by tile
        along it. None where that loop is put together from many segments."""
        order, places = self._order(group)
        segments = self._segments(group, order)
        if segments is not None and segments.axis == order[0] and segments.count > MOST:
            return None
        segments = self._segments(group, order[1:])
        few = segments if segments is None or segments.count <= MOST else None
        return self._nest(group, order, places, few, self._name(group), keep_first=True)

    def after(self, group: Group, nest: LoopNest) -> LoopNest:
        """What stands in place of ``nest``, the `epilogue` that ``group`` cannot be, after the call: itself,
        unless its slowest loop is put together from segments."""
        order, places = self._order(group)
        segments = self._segments(group, order)
        if segments is None or segments.axis != order[0]:
            return nest
        return self._nest(group, order, places, segments, nest.name)

    def _order(self, group: Group) -> tuple[list[str], dict[str, int]]:
        """The loops, slowest first, and the places of those that are in the order of memory."""
        order = [a for a in self._axis_order(group) if a not in group.shift or self.ix.extents[a] > 1]
        if (moved := self._by_memory(group, order)) is not None:
            return moved, {a: k for k, a in enumerate(moved)}
        return order, {}

    def _nest(
        self,
        group: Group,
        order: list[str],
        places: Mapping[str, int],
        segments: Segments | None,
        name: str,
        keep_first: bool = False,
    ) -> LoopNest:
        """The nest ``name`` of ``group`` over its ``segments``. With ``keep_first`` the slowest loop is not
        merged with others."""
        if segments is None:
            body, covers = self._body(group, places)
        else:
            within = self.ix.axis(segments.size).axis
            body, covers = self._body(group, places, segments, within)
            order = [within if a == segments.axis else a for a in order]
            order = [a for a in order if a != within or segments.size > 1]
        outer = [a for a in order if group.outer is None or a in group.outer]
        inner = [a for a in order if a not in outer]
        body = tidied(body)
        body = [with_buffers(s, self._buffer_load) for s in body]
        barrier = outer[0] if keep_first and outer else ""
        body, outer, inner = self._merged(body, outer, inner, barrier)
        body = [with_buffers(s, self._spread) for s in body]
        if group.outer is None and len(outer) > 1:
            inner, outer = [outer[-1]], outer[:-1]
        final = {a: f"i{k}" for k, a in enumerate(outer)} | {a: f"j{k}" for k, a in enumerate(inner)}
        axes = tuple(Axis(final[a], self.ix.extents[a]) for a in (*outer, *inner))
        body = [renamed(s, final) for s in body]
        nest = LoopNest(name, axes, len(outer), tuple(body), covers, anchor(body))
        nest.validate()
        return nest

    def _name(self, group: Group) -> str:
        base = _identifier(self.fusion.defs[group.members[-1]].node.lstrip("_"))
        n = self.names.get(base, 0)
        self.names[base] = n + 1
        return f"k_{base}" if not n else f"k_{base}_n{n}"

    # --- statements -----------------------------------------------------------------------------------------

    def _segments(self, group: Group, order: Sequence[str]) -> Segments | None:
        """How the loops of a pointwise group are cut into segments, if they are."""
        if not self.cut or group.outer is not None:
            return None
        if any(self.fusion.defs[n].kind == "scatter" for n in group.members):
            return None
        found: dict[str, frozenset[int]] = {}
        memo: dict[tuple[str, str], frozenset[int]] = {}

        computed = [n for n in group.members if n not in group.there]

        def inlined(name: str) -> bool:
            return not self.fusion.is_leaf(name) or name in computed

        align = self._alignment(group)
        for name in computed:
            d = self.fusion.defs[name]
            for own in d.free:
                if self.fusion.axes.pieces(own) == (own,):
                    axis = self._axis(own, group, align)
                    at = breaks(self.fusion.defs, inlined, name, own, memo)
                    first = group.shift.get(axis, 0)
                    found[axis] = found.get(axis, frozenset()) | {b - first for b in at}
        return chosen(self.ix, order, found)

    def _body(
        self, group: Group, places: Mapping[str, int], segments: Segments | None = None, within: str = ""
    ) -> tuple[list[Statement], tuple[str, ...]]:
        """Statements, and the graph nodes they cover; reduced axes are named in the order of ``places``."""
        defs = self.fusion.defs
        computed = [n for n in group.members if n not in group.there]
        inside = set(computed)
        values: dict[str, Expr] = {}

        def resolve(load: Load) -> Expr | None:
            if load.buffer not in inside:
                return load
            if load.buffer in values:
                return values[load.buffer]
            return None  # a stored pointwise member: evaluated here, at this very index

        inliner = Inliner(defs, self.ix, self.fusion.is_leaf, resolve)
        align = self._alignment(group)
        for name in computed:
            d = defs[name]
            by = self._placement(d, group, align)
            axes = tuple(self.ix.substitute(a, by) for a in d.axes)
            if d.kind in {"reduce", "scan"}:
                value = inliner.evaluated(d, by)
                values[name] = self._combine(inliner, d, value, group, align, places)
                result = values[name]
                if self.in_memory(name):
                    inliner.body.append(Store(name, axes, result))
                continue
            if d.kind == "scatter":
                place, value = inliner.placed(d, by)
                inliner.body.append(Store(name, place, value, None, d.combiner))
                continue
            for place in self._places(axes, segments, within):
                result = inliner.at(d, place)
                if self.in_memory(name):
                    inliner.body.append(Store(name, place, result))
        ordered = sorted(inliner.covers, key=self.fusion.order.__getitem__)
        return inliner.body, tuple(dict.fromkeys(defs[n].node for n in ordered))

    def _places(
        self, axes: tuple[Expr, ...], segments: Segments | None, within: str
    ) -> list[tuple[Expr, ...]]:
        """Where a member is evaluated: at ``axes``, or once a segment that they walk."""
        if segments is None or not any(Index(segments.axis) in walk(a) for a in axes):
            return [axes]
        numbers = range(segments.first, segments.first + segments.count)
        parts = [placed(self.ix, segments, k, within) for k in numbers]
        return [tuple(self.ix.substitute(a, by) for a in axes) for by in parts]

    def _combine(
        self,
        inliner: Inliner,
        d: Def,
        value: Expr,
        group: Group,
        align: Mapping[str, str],
        places: Mapping[str, int],
    ) -> Expr:
        axes = tuple(self._axis(a, group, align) for a in self.fusion.axes.reduced(d))
        if places:
            axes = tuple(sorted(axes, key=places.__getitem__))
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
        pieces: dict[str, Expr] = {}
        for p in (p for a in (*d.free, *d.raxes) for p in self.fusion.axes.pieces(a)):
            axis = self._axis(p, group, align)
            pieces[p] = Index(axis)
            if axis in group.shift:
                inside = Index(axis) if self.ix.extents[axis] > 1 else ZERO
                pieces[p] = self.ix.add(inside, integer(group.shift[axis]))
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

    def _by_memory(self, group: Group, order: Sequence[str]) -> list[str] | None:
        """The loops in the order of memory, where most of what the group moves lies in another order than
        its own index; None where it does not, or where the order of a reduction is part of its result."""
        align = self._alignment(group)
        moved: list[tuple[bool, int, dict[Expr, int]]] = []
        for name in group.members:
            d = self.fusion.defs[name]
            if d.kind in {"scan", "scatter"} or d.combiner in {"argmax", "argmin"}:
                return None
            read = () if name in group.there else self.fusion.accesses[name]
            accesses = [(a.name, a.index) for a in read if self.in_memory(a.name)]
            pieces = {p: Index(self._axis(p, group, align)) for p in self._all_axes(d)}
            if self.in_memory(name):
                own = self.fusion.axes.substitution(d)
                accesses.append((name, tuple(self.ix.substitute(a, own) for a in d.axes)))
            for base, index in accesses:
                layout = self.layout(base)
                if len(index) != len(layout.shape):
                    continue
                place = layout.flat(self.ix, [self.ix.substitute(e, pieces) for e in index])
                flat = self.ix.dot(place, layout.buffer.stride)
                moved.append((bool(layout.order), self.fusion.defs[base].size, linear(flat)[1]))
        ordered = sum(size for last, size, _ in moved if last)
        rest = sum(size for last, size, _ in moved if not last)
        stored = bool(self.layout(self._primary(group).name).order)
        if not ordered or (ordered, stored) < (rest, True):
            return None
        steps: dict[str, int] = {}
        for _, _, terms in sorted(moved, key=lambda m: (m[0], m[1]), reverse=True):
            for atom, step in terms.items():
                if isinstance(atom, Index):
                    steps.setdefault(atom.axis, step)
        return sorted(order, key=lambda a: -steps.get(a, 0))

    def _buffer_load(self, e: Load) -> Load:
        """A read of a definition as one of its buffer, at its flat position."""
        layout = self.layout(e.buffer)
        self._by_buffer[layout.buffer.name] = layout
        return evolve(e, index=layout.flat(self.ix, e.index), buffer=layout.buffer.name)

    def _spread(self, e: Load) -> Load:
        return evolve(e, index=self._by_buffer[e.buffer].spread(self.ix, e.index))

    # --- loops ----------------------------------------------------------------------------------------------

    def _merged(
        self, body: list[Statement], outer: list[str], inner: list[str], barrier: str
    ) -> tuple[list[Statement], list[str], list[str]]:
        """Adjacent axes that every access walks as one become one."""
        changed = True
        while changed:
            changed = False
            for axes in (outer, inner):
                for slow, fast in pairwise(axes):
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
            for e in parts(s):
                for form in maximal_linear(e):
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

        out = map_linear(s, change)
        if isinstance(out, Reduce) and fast in out.axes:
            out = evolve(out, axes=tuple(new.axis if a == slow else a for a in out.axes if a != fast))
        return out


def _identifier(name: str) -> str:
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return clean if clean and not clean[0].isdigit() else f"n_{clean}"
