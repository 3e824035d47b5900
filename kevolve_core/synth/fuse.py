"""Fusion groups: which definitions share a loop nest.

A definition that iterates (a reduction, a scan, or a tensor that has to lie in memory) starts a group of its
own; groups merge along producer-consumer edges where the consumer reads the producer only at the row it is
itself computing, and beside one another where they read the same data in the same order. Pointwise
definitions that need not lie in memory belong to no group: whoever reads them inlines them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import field, frozen

from kevolve_core.ir import Index, Load
from kevolve_core.synth.axes import Axes
from kevolve_core.synth.index import Indexer, integer
from kevolve_core.synth.inline import LEAVES, Access, Inliner
from kevolve_core.synth.lower import Def
from kevolve_core.synth.lower.core import Value

__all__ = ["Fusion", "Group", "MIN_TASKS", "operand_bases", "tensors"]

APART = frozenset(["library", "scatter"])  # kinds of definitions that share a nest with nothing

#: A row group with fewer tasks than this does not take in a pointwise consumer of `MANY` elements or more:
#: the consumer alone has all its elements as tasks. Estimated.
MIN_TASKS = 4
MANY = 1 << 15


@frozen
class Group:
    """Members share one nest. ``classes`` maps every axis of a member to the group's axis; ``outer`` are the
    group's axes that are independent tasks, None where all are (no reduction inside). An axis in ``shift``
    starts at that position of the members' own; members in ``there`` lie in memory already and are read."""

    members: tuple[str, ...]
    classes: Mapping[str, str]
    outer: frozenset[str] | None
    library: bool = False
    shift: Mapping[str, int] = field(factory=dict)
    there: frozenset[str] = frozenset()


class _Union:
    """Union-find over axis names."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, a: str) -> str:
        while self.parent.setdefault(a, a) != a:
            a = self.parent[a]
        return a

    def join(self, a: str, b: str) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[max(a, b, key=lambda n: (len(n), n))] = min(a, b, key=lambda n: (len(n), n))


class Fusion:
    """Fusion of one lowered graph.

    Args:
        defs: all definitions.
        ix: their index arithmetic.
        stored: those that must lie in memory.
        apart: edges ``(consumer, producer)`` that must not be fused.
        joined: definitions that share no nest with a reduction, so that their loops can be cut.
    """

    def __init__(
        self,
        defs: Mapping[str, Def],
        ix: Indexer,
        stored: Iterable[str],
        apart: Iterable[tuple[str, str]] = (),
        joined: Iterable[str] = (),
    ) -> None:
        self.defs = defs
        self.ix = ix
        self.axes = Axes(ix)
        self.axes.whole |= {a for d in defs.values() if d.kind == "scan" for a in d.raxes}
        self.required = set(stored)
        self.apart = set(apart)
        self.joined = frozenset(joined)
        self.order = {name: i for i, name in enumerate(defs)}
        self.accesses: dict[str, tuple[Access, ...]] = {}
        self.fused_edges: list[tuple[str, str]] = []
        self._live: list[str] = []
        self._siblings: list[tuple[str, str]] = []
        self._settled = False  # no axis is split any more: what reads what, at which row, is known
        self._matches: dict[Access, list[tuple[str, str]] | tuple[str, int] | None] = {}
        self._needed: dict[int, set[int]] = {}
        self._ancestors: dict[int, int] = {}

    # --- what is read where ---------------------------------------------------------------------------------

    def iterates(self, name: str) -> bool:
        return self.defs[name].kind in {"reduce", "scan"} or name in self.required

    def is_leaf(self, name: str) -> bool:
        return self.defs[name].kind in LEAVES or self.iterates(name)

    def inliner(self, name: str) -> Inliner:
        """An inliner that evaluates ``name`` and reads everything else that lies in memory."""
        return Inliner(self.defs, self.ix, self.is_leaf, lambda load: None if load.buffer == name else load)

    def analyse(self) -> None:
        """Find what every live definition reads, splitting axes until index maps are free of divisions.

        What a definition reads depends on its own axes alone, so a split re-reads only their owner.
        """
        queue = list(self.required)
        while queue:
            name = queue.pop()
            if name in self.accesses or self.defs[name].kind in {"input", "param", "constant"}:
                continue
            self._read(name)
            queue.extend(a.name for a in self.accesses[name])
        self._live = sorted(self.accesses, key=self.order.__getitem__)
        while any(self._split_for_match(name) for name in self._live):
            pass
        self._settled = True

    def _read(self, name: str) -> None:
        """Note what ``name`` reads, after splitting its axes where that rids an index of a division."""
        while True:
            self.accesses[name] = self._reads(name)
            indices = (e for access in self.accesses[name] for e in access.index)
            wanted = next((w for e in indices if (w := self.axes.wanted_split(e)) is not None), None)
            if wanted is None:
                return
            self.axes.split(*wanted)

    def _split_for_match(self, name: str) -> bool:
        """Split an axis of ``name`` or of what it reads so that their rows compare; whether one was."""
        for access in self.accesses[name]:
            if self.iterates(access.name):
                found = self._matched(access)
                if isinstance(found, tuple):
                    self.axes.split(*found)
                    self._read(access.name)
                    self._read(name)
                    return True
        return False

    def _reads(self, name: str) -> tuple[Access, ...]:
        d = self.defs[name]
        if d.kind == "library":
            assert d.call is not None
            return tuple(Access(base, ()) for base in operand_bases(d.call.args))
        inliner = self.inliner(name)
        by = self.axes.substitution(d)
        if d.kind in {"reduce", "scan"}:
            inliner.evaluated(d, by)
        elif d.kind == "scatter":
            inliner.placed(d, by)
            before = (Access(d.row, ()),) if d.row else ()
            return (*before, *inliner.accesses)
        else:
            inliner.at(d, tuple(self.ix.substitute(a, by) for a in d.axes))
        return tuple(inliner.accesses)

    def _matched(self, access: Access) -> list[tuple[str, str]] | tuple[str, int] | None:
        """Pairs (producer's axis, consumer's axis) where ``access`` reads the producer's current row."""
        if self._settled and access in self._matches:
            return self._matches[access]
        found = self._matching(access)
        if self._settled:
            self._matches[access] = found
        return found

    def _matching(self, access: Access) -> list[tuple[str, str]] | tuple[str, int] | None:
        d = self.defs[access.name]
        if d.kind in APART or len(access.index) != len(d.axes):
            return None
        by = self.axes.substitution(d)
        pairs: list[tuple[str, str]] = []
        for own, read in zip(d.axes, access.index, strict=True):
            found = self.axes.match(self.ix.substitute(own, by), read)
            if found is None or isinstance(found, tuple):
                return found
            pairs += found
        readers = [b for _, b in pairs]
        return pairs if len(set(readers)) == len(readers) else None

    # --- groups ---------------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        """Groups in execution order; call `analyse` first."""
        owner: dict[str, int] = {}
        members: dict[int, list[str]] = {}
        calls: dict[int, int] = {}
        for name in self._live:
            d = self.defs[name]
            if d.kind == "library":
                g = calls.setdefault(id(d.call), len(members))
            elif self.iterates(name):
                g = len(members)
            else:
                continue
            owner[name] = g
            members.setdefault(g, []).append(name)
        self._merge_edges(owner, members)
        self._merge_siblings(owner, members)
        return [self._group(members[g]) for g in self._ordered(owner, members)]

    def _edges(self) -> Iterator[tuple[str, str]]:
        for consumer in self._live:
            producers = {a.name for a in self.accesses[consumer]}
            for producer in sorted(producers, key=self.order.__getitem__, reverse=True):
                if producer != consumer:
                    yield consumer, producer

    def _merge_edges(self, owner: dict[str, int], members: dict[int, list[str]]) -> None:
        for consumer, producer in self._edges():
            if consumer not in owner or producer not in owner or (consumer, producer) in self.apart:
                continue
            a, b = owner[consumer], owner[producer]
            if a == b or self._is_apart(members[a]) or self._is_apart(members[b]):
                continue
            if self._can_join(members[a], members[b], owner, members, a, b):
                self._join(owner, members, a, b)
                self.fused_edges.append((consumer, producer))

    def _merge_siblings(self, owner: dict[str, int], members: dict[int, list[str]]) -> None:
        for x, y in self._neighbours(members):
            a, b = sorted((owner[x], owner[y]))
            if a == b:
                continue
            first, second = members[a], members[b]
            if any((p, q) in self.apart or (q, p) in self.apart for p in first for q in second):
                continue
            if self._path_outside(owner, members, a, b) or self._path_outside(owner, members, b, a):
                continue
            for pairs in self._shared(first, second):
                if self._can_join(first, second, owner, members, a, b, pairs):
                    edge = (second[-1], first[-1])
                    if edge not in self.apart:
                        self._siblings += pairs
                        self._join(owner, members, a, b)
                        self.fused_edges.append(edge)
                    break

    def _neighbours(self, members: Mapping[int, Sequence[str]]) -> list[tuple[str, str]]:
        """A member each of groups that read a common tensor, in order."""
        readers: dict[str, list[int]] = {}
        for g, names in members.items():
            if not self._is_apart(names):
                for tensor in dict.fromkeys(a.name for n in names for a in self.accesses[n] if a.index):
                    readers.setdefault(tensor, []).append(g)
        pairs = {(a, b) for groups in readers.values() for a in groups for b in groups if a < b}
        place = {g: k for k, g in enumerate(members)}
        order = sorted(pairs, key=lambda p: (place[p[0]], place[p[1]]))
        return [(members[a][0], members[b][0]) for a, b in order]

    def _shared(self, first: Sequence[str], second: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
        """Axis pairs under which both groups walk a common tensor in the same order."""
        found: set[tuple[tuple[str, str], ...]] = set()
        for x in first:
            for y in second:
                for p in self.accesses[x]:
                    for q in self.accesses[y]:
                        if p.name == q.name and p.index and len(p.index) == len(q.index):
                            pairs = self._same_walk(p, q)
                            if pairs and tuple(pairs) not in found:
                                found.add(tuple(pairs))
                                yield pairs

    def _same_walk(self, p: Access, q: Access) -> list[tuple[str, str]] | None:
        pairs: list[tuple[str, str]] = []
        for a, b in zip(p.index, q.index, strict=True):
            found = self.axes.match(a, b)
            if not isinstance(found, list):
                return None
            pairs += found
        return pairs

    def _is_apart(self, names: Sequence[str]) -> bool:
        return self.defs[names[0]].kind in APART

    def _join(self, owner: dict[str, int], members: dict[int, list[str]], a: int, b: int) -> None:
        for name in members.pop(b):
            owner[name] = a
            members[a].append(name)
        self._needed.clear()
        self._ancestors.clear()

    def _can_join(
        self,
        first: Sequence[str],
        second: Sequence[str],
        owner: Mapping[str, int],
        members: Mapping[int, Sequence[str]],
        a: int,
        b: int,
        pairs: Sequence[tuple[str, str]] = (),
    ) -> bool:
        if self._path_outside(owner, members, a, b) or self._path_outside(owner, members, b, a):
            return False
        together = sorted([*first, *second], key=self.order.__getitem__)
        if any((x, y) in self.apart for x in together for y in together):
            return False
        return self._classes(together, pairs) is not None

    def _path_outside(
        self, owner: Mapping[str, int], members: Mapping[int, Sequence[str]], start: int, goal: int
    ) -> bool:
        """Whether ``start`` depends on ``goal`` through a third group."""
        above = self._above(owner, members)
        return any(above[g] >> goal & 1 for g in self._needs(owner, members, start) if g not in {start, goal})

    def _above(self, owner: Mapping[str, int], members: Mapping[int, Sequence[str]]) -> dict[int, int]:
        """For each group, the groups it depends on at any distance, as bits."""
        if not self._ancestors:
            for first in members:
                stack = [first]
                while stack:
                    g = stack[-1]
                    needs = self._needs(owner, members, g) - {g}
                    if missing := [n for n in needs if n not in self._ancestors]:
                        stack.extend(missing)
                        continue
                    stack.pop()
                    bits = 0
                    for n in needs:
                        bits |= self._ancestors[n] | 1 << n
                    self._ancestors[g] = bits
        return self._ancestors

    def _needs(self, owner: Mapping[str, int], members: Mapping[int, Sequence[str]], g: int) -> set[int]:
        """Groups whose results group ``g`` reads, itself included."""
        if g not in self._needed:
            self._needed[g] = {owner[a.name] for n in members[g] for a in self.accesses[n] if a.name in owner}
        return self._needed[g]

    def _ordered(self, owner: Mapping[str, int], members: Mapping[int, Sequence[str]]) -> list[int]:
        """Groups in a topological order, earliest definition first among those that are ready."""
        done: list[int] = []
        rest = dict(members)
        while rest:
            ready = [g for g in rest if all(n == g or n not in rest for n in self._needs(owner, members, g))]
            g = min(ready, key=lambda g: max(self.order[n] for n in rest[g]))
            done.append(g)
            del rest[g]
        return done

    def _group(self, names: Sequence[str]) -> Group:
        names = sorted(names, key=self.order.__getitem__)
        first = self.defs[names[0]]
        if first.kind == "library":
            return Group(tuple(names), {}, None, True)
        if first.kind == "scatter":
            loops = self.axes.reduced(first)
            plain = {e.axis for e in first.row_index if isinstance(e, Index)}
            rows = frozenset(p for a in first.raxes if a in plain for p in self.axes.pieces(a))
            return Group(tuple(names), {p: p for p in loops}, rows if first.combiner == "set" else None)
        found = self._classes(names)
        assert found is not None
        return Group(tuple(names), *found)

    def _classes(
        self, names: Sequence[str], pairs: Sequence[tuple[str, str]] = ()
    ) -> tuple[dict[str, str], frozenset[str] | None] | None:
        """The group's axis for each member's axis, and the outer ones; None where none fits."""
        union = _Union()
        inside = set(names)
        for name in names:
            for access in self.accesses[name]:
                if access.name in inside and access.name != name:
                    found = self._matched(access)
                    if not isinstance(found, list):
                        return None
                    for own, read in found:
                        if self.ix.extents[own] != self.ix.extents[read]:
                            return None
                        union.join(own, read)
        mine = {p for n in names for p in (*self.axes.of(self.defs[n]), *self.axes.reduced(self.defs[n]))}
        for own, read in (*self._siblings, *pairs):
            if own in mine and read in mine:
                union.join(own, read)
        outer: frozenset[str] | None = None
        spans: list[frozenset[str]] = []
        scanned: list[frozenset[str]] = []
        loops: list[frozenset[str]] = []
        for name in names:
            d = self.defs[name]
            free = [union.find(a) for a in self.axes.of(d)]
            consumed = [union.find(a) for a in self.axes.reduced(d)]
            every = free if d.kind == "scan" else [*free, *consumed]
            loops.append(frozenset([*free, *consumed]))
            if d.kind == "scan":
                scanned.append(frozenset(consumed))
            if len(set(every)) != len(every):
                return None
            if d.kind in {"reduce", "scan"}:
                rows = frozenset(free) - frozenset(consumed)
                if outer is not None and rows != outer:
                    return None
                outer = rows
            else:
                spans.append(frozenset(free))
        if outer is not None and not self.joined.isdisjoint(names):
            return None
        if outer is None:
            if len(set(spans)) > 1:
                return None
        elif not self._rows_fit(names, union, outer, spans):
            return None
        elif any(not loop - outer <= along for along in scanned for loop in loops):
            return None  # a running value is known along its own axis only, a tile at a time
        classes = {a: union.find(a) for a in mine}
        return classes, outer

    def _rows_fit(
        self, names: Sequence[str], union: _Union, outer: frozenset[str], spans: Sequence[frozenset[str]]
    ) -> bool:
        tasks = math.prod(self.ix.extents[a] for a in outer)
        for span in spans:
            if not outer <= span:
                return False
            if tasks < MIN_TASKS and math.prod(self.ix.extents[a] for a in span) >= MANY:
                return False
        for name in names:
            d = self.defs[name]
            if d.kind in {"reduce", "scan"} and outer & {union.find(a) for a in self.axes.reduced(d)}:
                return False
        return True


def operand_bases(args: Mapping[str, object]) -> list[str]:
    """The definitions that a library call's tensor arguments lie in."""
    loads = [value.at(tuple(integer(0) for _ in value.shape)) for value in tensors(args)]
    return [load.buffer for load in loads if isinstance(load, Load)]


def tensors(args: Mapping[str, object]) -> Iterator[Value]:
    """The tensors among a library call's arguments, in order."""
    stack = [*args.values()][::-1]
    while stack:
        value = stack.pop()
        if isinstance(value, Value):
            yield value
        elif isinstance(value, (list, tuple)):
            stack += reversed(value)
