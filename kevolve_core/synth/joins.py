"""Concatenations put together in place: who computes a part of one stores it where it belongs.

A concatenation that lies in memory holds all its parts. So a part that lies in memory as well, because others
read it too or because a nest of its own computes it, need not lie there twice: it is a slice of the
concatenation's buffer, and its copy is left out. A part may be such a buffer itself: a dense block, whose
every layer appends to what it read, is one buffer that grows. Only where elements lie changes: indices gain
an offset, and renderers see stores and loads as ever. No nest reads the buffer that it writes.

What is left of the nest that put the parts together is cut: nothing is done for parts that are there, and
parts that libraries compute have nests of their own, which may then follow their calls (`LibraryCall`'s
epilogue), or be part of a generated product's kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from attrs import define, evolve, field, frozen

from kevolve_core.ir import Index, Load, LoopNest, itemsize, walk
from kevolve_core.synth.fuse import Fusion, Group, operand_bases
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.layout import Layout, contiguous
from kevolve_core.synth.lower import Def, Lowering
from kevolve_core.synth.lower.core import Join, Part

__all__ = ["CAT_IN_PLACE", "Cut", "Joins", "Place", "cat_in_place"]

CAT_IN_PLACE = "cat_in_place"  # the rewrite's name
_CONCATENATIONS = frozenset(["aten.cat.default", "aten.stack.default"])
#: Library operators whose matrices may have any distance between rows, as BLAS takes them.
_PRODUCTS = frozenset(["mm", "addmm", "bmm", "baddbmm"])
#: Bytes of a library's result from which it has a nest of its own: moved as fast as that costs a launch.
#: Estimated.
WORTH = 1 << 20


def cat_in_place(graph: Graph) -> Graph:
    """Note that ``graph`` concatenates; a `Partition` says whether that is done in place."""
    return evolve(graph, in_place=True) if any(n.op in _CONCATENATIONS for n in graph.nodes) else graph


@frozen
class Place:
    """A definition lies in ``whole`` from position ``start`` of dimension ``dim`` on."""

    whole: str
    dim: int
    start: int


@frozen
class Cut:
    """A part of a group's nest, which follows the call of library definition ``follows`` ("": none)."""

    group: Group
    follows: str = ""


@frozen
class _Run:
    """Neighbouring parts of a concatenation: they are ``there`` already, or follow one library call."""

    start: int
    size: int
    there: bool
    follows: str


@define
class Joins:
    """The concatenations of one program.

    Args:
        lowering: of the program.
        fixed: definitions that lie where they must: results, what is scattered into, rows to be searched.
        places: where parts lie that are slices of a concatenation.
        cut: concatenations whose nests were cut.
    """

    lowering: Lowering
    fixed: Collection[str]
    places: dict[str, Place] = field(factory=dict)
    cut: set[str] = field(factory=set)
    _operators: dict[str, set[str]] = field(factory=dict)

    # --- before fusion --------------------------------------------------------------------------------------

    def choose(self, required: Collection[str], live: Collection[str]) -> frozenset[str]:
        """Find the parts that are to be slices of concatenations which lie in memory as do all ``required``
        definitions. These parts have to, then."""
        defs = self.lowering.defs
        for d in defs.values():
            if d.call is not None and d.name in live:
                for base in operand_bases(d.call.args):
                    self._operators.setdefault(base, set()).add(_operator(d.call.op))
        kept = set(required)
        searched = {d.row for d in defs.values() if d.kind == "search"}
        for name in reversed(list(defs)):  # what holds others before what it holds
            join = self.lowering.joins.get(name)
            if join is None or name not in kept or name not in live or name in searched:
                continue
            memo: dict[tuple[str, str], bool] = {}
            parts = [p for p in join.parts if self._may_lie_in(p, name, join)]
            if any(self._gains(defs[p.name], join.dim, kept, memo) for p in parts):
                for p in parts:
                    self.places.setdefault(p.name, Place(name, join.dim, p.start))
                kept |= {p.name for p in parts}
        return frozenset(self.places)

    @property
    def joined(self) -> frozenset[str]:
        """Concatenations that parts lie in."""
        return frozenset(p.whole for p in self.places.values())

    def _may_lie_in(self, part: Part, name: str, join: Join) -> bool:
        d, whole = self.lowering.defs[part.name], self.lowering.defs[name]
        if d.kind not in {"point", "reduce", "scan"} or d.dtype != whole.dtype:
            return False
        if d.name in self.fixed or d.name in self.places:
            return False
        dense = math.prod(whole.shape[: join.dim]) == 1
        return dense or self._operators.get(d.name, set()) <= _PRODUCTS

    def _gains(self, d: Def, dim: int, kept: Collection[str], memo: dict[tuple[str, str], bool]) -> bool:
        """Whether ``d`` lies in memory in any case, or is computed with reductions at each position along
        ``dim``, whose nest the concatenation cannot join."""
        if d.name in kept:
            return True
        own = d.axes[dim]
        return isinstance(own, Index) and self._reduces(d, own.axis, kept, memo)

    def _reduces(self, d: Def, axis: str, kept: Collection[str], memo: dict[tuple[str, str], bool]) -> bool:
        """Whether ``d`` is a reduction, or computed from one where ``axis`` says at which of its points."""
        if d.kind in {"reduce", "scan"}:
            return True
        if (d.name, axis) in memo or d.value is None:
            return memo.get((d.name, axis), False)
        memo[d.name, axis] = False
        for e in walk(d.value):
            read = self.lowering.defs[e.buffer] if isinstance(e, Load) and e.buffer not in kept else None
            if not isinstance(e, Load) or read is None or read.kind not in {"point", "reduce", "scan"}:
                continue
            for place, own in zip(e.index, read.axes, strict=True):
                along = isinstance(own, Index) and Index(axis) in walk(place)
                if along and isinstance(own, Index) and self._reduces(read, own.axis, kept, memo):
                    memo[d.name, axis] = True
                    return True
        return memo[d.name, axis]

    # --- after fusion ---------------------------------------------------------------------------------------

    def settle(
        self,
        fusion: Fusion,
        groups: Sequence[Group],
        orders: Mapping[str, tuple[int, ...]],
        strided: Callable[[str], Iterator[tuple[tuple[int, ...], tuple[int, ...]]]],
    ) -> None:
        """Drop the places that do not work out: of another order of memory than the concatenation's, of a
        nest that cannot be cut, and of what a library would copy (``strided`` are shape and strides of the
        views of a definition that libraries take)."""
        defs = self.lowering.defs
        owner = {n: g for g in groups for n in g.members}
        sizes: dict[str, int] = {}
        for name, place in self.places.items():
            sizes[place.whole] = sizes.get(place.whole, 0) + defs[name].size
        for name, place in list(self.places.items()):
            group = owner.get(place.whole)
            same = orders.get(name) == orders.get(place.whole) or _one_order(defs[name].shape)
            others = [n for n in (group.members if group is not None else ()) if n in sizes]
            most = max(others, key=lambda n: sizes[n], default="")
            fits = group is not None and group.outer is None and self._even(fusion, place.whole)
            if not fits or name not in owner or most != place.whole or not same:
                del self.places[name]
        for name in [n for n in self.places if n in self._operators]:
            products = self._operators[name] <= _PRODUCTS
            if not all(_taken(shape, strides, products) for shape, strides in strided(name)):
                del self.places[name]

    def layout(self, name: str, whole: Callable[[str], Layout]) -> Layout | None:
        """The layout of a definition that is a slice of another, given that of others."""
        place = self.places.get(name)
        if place is None:
            return None
        shape = self.lowering.defs[name].shape
        return whole(place.whole).part(
            [place.start if d == place.dim else 0 for d in range(len(shape))], shape
        )

    def _axis(self, name: str) -> str:
        """The axis of ``name`` that its parts follow one another along; "" where it has one position."""
        own = self.lowering.defs[name].axes[self.lowering.joins[name].dim]
        return own.axis if isinstance(own, Index) else ""

    def _below(self, fusion: Fusion, name: str) -> int:
        """Positions along that axis of one point of its slowest piece."""
        pieces = fusion.axes.pieces(self._axis(name)) if self._axis(name) else ()
        return math.prod(fusion.ix.extents[p] for p in pieces[1:])

    def _even(self, fusion: Fusion, name: str) -> bool:
        """Whether every part is so many points of the slowest piece."""
        below = self._below(fusion, name)
        return not any(p.start % below or p.size % below for p in self.lowering.joins[name].parts)

    def cuts(
        self, fusion: Fusion, group: Group, memory: Collection[str], sole: Callable[[str], bool]
    ) -> list[Cut]:
        """The nests of ``group``: several, or none, where it holds a concatenation with parts that are there
        already or follow calls of their own; ``sole`` says which library results no other group reads."""
        whole = [Cut(group)]
        if group.library or group.outer is not None:
            return whole
        found = [n for n in group.members if n in self.lowering.joins and n in memory]
        found = [n for n in found if n in self.joined] or found
        if not found or not self._even(fusion, found[0]):
            return whole
        name = found[0]
        runs = list(self._runs(fusion, name, sole))
        if len(runs) == 1 and not runs[0].there:
            return whole
        self.cut.add(name)
        alone = group.members == (name,)
        there = frozenset([name])
        if len(runs) == 1:
            return [] if alone else [Cut(evolve(group, there=there))]
        below = self._below(fusion, name)
        slow = group.classes[fusion.axes.pieces(self._axis(name))[0]]
        cuts: list[Cut] = []
        for r in runs:
            if r.there and alone:
                continue
            within = fusion.ix.axis(r.size // below).axis
            classes = {a: within if own == slow else own for a, own in group.classes.items()}
            part = evolve(
                group,
                classes=classes,
                shift={within: r.start // below},
                there=there if r.there else frozenset[str](),
            )
            cuts.append(Cut(part, r.follows))
        return cuts

    def _runs(self, fusion: Fusion, name: str, sole: Callable[[str], bool]) -> Iterator[_Run]:
        """The parts of ``name`` that a nest takes together."""
        d, join = self.lowering.defs[name], self.lowering.joins[name]
        follows = [self._follows(fusion, p.name, sole) for p in join.parts]
        follows = [f if follows.count(f) == 1 else "" for f in follows]
        position = d.size // d.shape[join.dim] * itemsize(d.dtype)
        found: list[tuple[bool, str, list[tuple[Part, str]]]] = []
        for p, call in zip(join.parts, follows, strict=True):
            place = self.places.get(p.name)
            there = place is not None and (place.whole, place.start) == (name, p.start)
            own = "" if there or p.size * position < WORTH else call
            if found and found[-1][:2] == (there, own):
                found[-1][2].append((p, call))
            else:
                found.append((there, own, [(p, call)]))
        for there, _, held in found:
            call = held[0][1] if len(held) == 1 and not there else ""
            yield _Run(held[0][0].start, sum(p.size for p, _ in held), there, call)

    def _follows(self, fusion: Fusion, part: str, sole: Callable[[str], bool]) -> str:
        """The one library result that ``part`` is computed from, where no other group reads it; or ""."""
        found: set[str] = set()
        stack, seen = [part], set[str]()
        while stack:
            d = fusion.defs[stack.pop()]
            if d.name in seen:
                continue
            seen.add(d.name)
            if d.kind == "library":
                found.add(d.name)
            elif d.value is not None and not fusion.is_leaf(d.name):
                stack += [e.buffer for e in walk(d.value) if isinstance(e, Load)]
        return next(iter(found)) if len(found) == 1 and all(map(sole, found)) else ""

    def clashes(
        self, built: Sequence[tuple[Group, LoopNest]], buffer: Callable[[str], str], fusion: Fusion
    ) -> frozenset[str]:
        """Parts whose places make a nest of ``built`` read the buffer that it writes."""
        found: set[str] = set()
        for group, nest in built:
            both = nest.reads() & set(nest.writes())
            mine = [n for n in self.places if buffer(n) in both] if both else []
            stored = {n for n in mine if n in group.members}
            read = {a.name for n in group.members for a in fusion.accesses[n]}
            found |= stored or {n for n in mine if n in read}
        return frozenset(found)


def _operator(op: str) -> str:
    return op.removeprefix("aten::").split(".")[0]


def _one_order(shape: Sequence[int]) -> bool:
    """Whether channels-last is the same memory."""
    return len(shape) not in (4, 5) or shape[1] == 1 or math.prod(shape[2:]) == 1


def _taken(shape: Sequence[int], strides: Sequence[int], products: bool) -> bool:
    """Whether a library takes such a view as it is."""
    if all(n == 1 or s == t for n, s, t in zip(shape, strides, contiguous(shape), strict=True)):
        return True
    return products and len(shape) > 1 and 1 in strides[-2:]
