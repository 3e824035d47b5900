"""A lowered graph becomes a `Program`: what lies in memory, which nests and library calls compute it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from attrs import evolve, frozen

from kevolve_core.ir import (
    Attention,
    Buffer,
    Load,
    LoopNest,
    OutputRef,
    Program,
    Single,
    affine,
    walk,
)
from kevolve_core.synth.calls import CallBuilder, recurs
from kevolve_core.synth.channels import ChannelsLast
from kevolve_core.synth.epilogues import Part, followed
from kevolve_core.synth.fuse import Fusion, Group, operand_bases, tensors
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.inline import LEAVES
from kevolve_core.synth.joins import Cut, Joins
from kevolve_core.synth.layout import Layout
from kevolve_core.synth.lower import Def, Lowered, Lowering, Value, lower
from kevolve_core.synth.nests import NestBuilder
from kevolve_core.synth.online_attention import attended
from kevolve_core.synth.rows import split_large, split_rows
from kevolve_core.synth.tables import landings, tables

__all__ = ["Partition", "Synthesised", "synthesise"]


@frozen
class Partition:
    """Fusion choices, by names of definitions, which are stable across cases of one reference.

    Args:
        apart: edges ``(consumer, producer)`` whose nests are not to be merged.
        stored: pointwise definitions to keep in memory rather than to compute where they are read.
        epilogues: whether nests that read a library call's result run as its epilogue.
        recomputed: definitions that `kevolve_core.synth.tables` would keep in memory, not to be kept.
        segments: whether loops are cut where a tensor is put together (`kevolve_core.synth.segments`).
        channels_last: whether convolutions run on channels-last memory (`kevolve_core.synth.channels`).
        attention: whether attention is one step (`kevolve_core.synth.online_attention`); off by default,
            since only some languages have a kernel for it.
        in_place: whether concatenations are put together in place (`kevolve_core.synth.joins`).
        windowed: whether convolutions of few channels a group are sums over windows
            (`kevolve_core.synth.windowed`), and not the library's.
    """

    apart: frozenset[tuple[str, str]] = frozenset()
    stored: frozenset[str] = frozenset()
    epilogues: bool = True
    recomputed: frozenset[str] = frozenset()
    segments: bool = True
    channels_last: bool = False
    attention: bool = False
    in_place: bool = True
    windowed: bool = True


@frozen(eq=False)
class Synthesised:
    """A program and what could have been cut otherwise: ``edges`` that were fused, ``shared`` definitions
    that are computed in more than one step, and the operators that only the library knows."""

    program: Program
    edges: tuple[tuple[str, str], ...]
    shared: tuple[str, ...]
    opaque: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()  # kept in memory because many elements share them
    points: tuple[str, ...] = ()  # every pointwise definition that the result depends on
    attentions: tuple[str, ...] = ()  # steps of attention that are one step, or could be
    joined: tuple[str, ...] = ()  # concatenations in memory that are put together in place, or may be


def synthesise(graph: Graph, case: str = "", partition: Partition | None = None) -> Synthesised:
    """The program of ``graph`` under ``partition`` (by default everything is fused that legally can be).

    Raises:
        UnsupportedError: names the operator and the user's source line.
    """
    partition = partition or Partition()
    if not partition.windowed:
        graph = evolve(graph, windowed=())
    last = frozenset(graph.channels_last) if partition.channels_last else frozenset()
    made = _Assembler(lower(graph), case, partition, last, graph.in_place).assembled()
    if not graph.attention:
        return made
    fused = attended(made.program)
    found = tuple(s.name for s in fused.steps if isinstance(s, Attention))
    return evolve(made, program=fused if partition.attention else made.program, attentions=found)


class _Assembler:
    def __init__(
        self, lowered: Lowered, case: str, partition: Partition, last: frozenset[str], in_place: bool
    ) -> None:
        self.lowered = lowered
        self.lowering: Lowering = lowered.lowering
        self.case = case
        self.partition = partition
        self.last = last  # convolutions that run on channels-last memory
        self.in_place = in_place  # whether the graph's rewrites let concatenations be put together so
        self.orders: dict[str, tuple[int, ...]] = {}  # of definitions that lie so
        self.layouts: dict[str, Layout] = {}
        self.buffer_names: dict[str, str] = {}
        self.memory: set[str] = set()
        self.outputs: set[str] = set()
        self.search_rows: set[str] = set()
        self.started: dict[str, str] = {}  # what a scattered definition starts as -> that definition
        self.built: list[tuple[Group, LoopNest]] = []  # nests, with what they were built from

    def assembled(self) -> Synthesised:
        lowering = self.lowering
        channels = ChannelsLast(lowering, self.last, self._view, self._insert_before)
        if self.last:
            channels.take_apart(self.lowered.outputs)
        values = [self._output_value(v, k) for k, v in enumerate(self.lowered.outputs)]
        required = {base for base, _ in values}
        self.outputs = set(required)
        for d in list(lowering.defs.values()):
            if d.call is not None:
                self._fix_operands(d)
        if self.last:
            channels.choose(self.outputs)
            self.orders = channels.orders
        required |= self._library_bases()
        scattered = [d for d in lowering.defs.values() if d.kind == "scatter"]
        self.started = {d.row: d.name for d in scattered if d.row}
        required |= {*self.started, *(d.name for d in scattered)}
        self.search_rows = {d.row for d in lowering.defs.values() if d.kind == "search"}
        self.tables = tables(lowering.defs, lowering.ix.extents, required)
        required |= {
            n
            for n in (*self.partition.stored, *lowering.stored, *self.tables - self.partition.recomputed)
            if n in lowering.defs and lowering.defs[n].kind == "point"
        }
        self.joins = Joins(
            lowering, {*self.outputs, *self.started, *self.search_rows, *self.started.values()}
        )
        if self.in_place and self.partition.in_place:
            required |= self.joins.choose(required, self._live())
        required |= landings(lowering.defs, required)
        fusion = self._fused(required)
        groups = fusion.groups()
        self._decide_memory(fusion, groups)
        if self.orders:
            channels.follow(self.memory, lambda name: [a.name for a in fusion.accesses.get(name, ())])
        self.joins.settle(fusion, groups, self.orders, self._views_of)
        steps = self._steps(fusion, groups)
        while clashes := self.joins.clashes(self.built, lambda n: self.layout(n).buffer.name, fusion):
            for name in clashes:
                del self.joins.places[name]
            steps = self._steps(fusion, groups)
        buffers = self._buffers(steps)
        outputs = tuple(self._output_ref(base, v) for base, v in values)
        program = Program(self.case, buffers, tuple(steps), outputs, self.lowered.structure)
        live = self._live()
        points = tuple(n for n, d in lowering.defs.items() if d.kind == "point" and n in live)
        edges = tuple(fusion.fused_edges)
        kept = tuple(sorted(self.tables & set(points)))
        held = self.joins.cut if self.partition.in_place else self.memory & lowering.joins.keys()
        joined = tuple(sorted(held)) if self.in_place else ()
        return Synthesised(
            program, edges, self._shared(fusion), self.lowered.opaque, kept, points, joined=joined
        )

    # --- what lies in memory --------------------------------------------------------------------------------

    def _view(self, v: Value) -> tuple[str, Load] | None:
        """(definition, load) where ``v`` is a strided view of a definition's memory."""
        axes = self.lowering.own_axes(v.shape)
        load = v.at(axes)
        if not isinstance(load, Load) or load.mask is not None or load.dtype != v.dtype:
            return None
        forms = [affine(i) for i in load.index]
        if any(f is None or any(step < 0 for step in f[1].values()) for f in forms):
            return None  # PyTorch's views have no negative strides
        return load.buffer, load

    def _output_value(self, v: Value, k: int) -> tuple[str, Value]:
        """The definition that output ``k`` lies in, and the output as a view of it."""
        found = self._view(v)
        defs = self.lowering.defs
        if found is not None:
            d = defs[found[0]]
            if d.kind == "library" or (
                d.kind in {"reduce", "scan", "search", "scatter", "point"} and d.size == _size(v.shape)
            ):
                return d.name, v
        self.lowering.node = None
        name = f"out{k}"
        copied = self.lowering.add(
            Def(name, v.shape, v.dtype, "point", axes := self.lowering.own_axes(v.shape), v.at(axes))
        )
        return copied.definition, copied

    def _fix_operands(self, d: Def) -> None:
        """Operands that are not views of memory become definitions of their own."""
        assert d.call is not None

        def fixed(value: Any, name: str) -> Any:
            if isinstance(value, Value):
                if self._view(value) is not None:
                    return value
                axes = self.lowering.own_axes(value.shape)
                made = Def(f"{d.node}_{name}", value.shape, value.dtype, "point", axes, value.at(axes))
                return self._insert_before(d.name, made)
            if isinstance(value, (list, tuple)):
                return [fixed(v, f"{name}{i}") for i, v in enumerate(value)]
            return value

        for key, value in list(d.call.args.items()):
            d.call.args[key] = fixed(value, key)

    def _insert_before(self, before: str, made: Def) -> Value:
        defs = self.lowering.defs
        name, n = made.name, 1
        while name in defs:
            n += 1
            name = f"{made.name}_{n}"
        made = evolve(made, name=name, node=defs[before].node, label="copy")
        out: dict[str, Def] = {}
        for key, d in defs.items():
            if key == before:
                out[name] = made
            out[key] = d
        defs.clear()
        defs.update(out)
        return self.lowering.whole(name)

    def _library_bases(self) -> set[str]:
        found: set[str] = set()
        for d in self.lowering.defs.values():
            if d.call is not None:
                found |= set(operand_bases(d.call.args))
        return found

    def _fused(self, required: set[str]) -> Fusion:
        defs, ix = self.lowering.defs, self.lowering.ix
        needed = {n for n in required if defs[n].kind not in {"input", "param", "constant"}}
        live = self._live()
        rows = {n for n in self.search_rows & live if defs[n].kind not in LEAVES}
        roots = (needed & live) | rows
        while True:
            joined = self.joins.joined
            fusion = Fusion(dict(self.lowering.defs), ix, roots, self.partition.apart, joined)
            fusion.analyse()
            if split_rows(self.lowering, fusion) or split_large(self.lowering, fusion):
                roots |= {n for n in fusion.required if n in self.lowering.defs}
                continue
            return fusion

    def _live(self) -> set[str]:
        """Definitions that outputs depend on: operands of dead library calls must not keep anything."""
        defs = self.lowering.defs
        live: set[str] = set()
        stack = list(self.outputs)
        while stack:
            name = stack.pop()
            if name in live:
                continue
            live.add(name)
            d = defs[name]
            if d.call is not None:
                stack.extend(operand_bases(d.call.args))
            if d.row:
                stack.append(d.row)
            for e in (d.value, *d.row_index):
                if e is not None:
                    stack.extend(n.buffer for n in walk(e) if isinstance(n, Load))
        return live

    def _decide_memory(self, fusion: Fusion, groups: Sequence[Group]) -> None:
        """A member lies in memory where it has to, or where another group reads it."""
        owner = {n: k for k, g in enumerate(groups) for n in g.members}
        self.memory = set(fusion.required) | {n for n in owner if fusion.defs[n].kind == "library"}
        for name, accesses in fusion.accesses.items():
            for a in accesses:
                if a.name in owner and owner.get(name) != owner[a.name]:
                    self.memory.add(a.name)
        self.fusion = fusion

    def _shared(self, fusion: Fusion) -> tuple[str, ...]:
        """Pointwise definitions that more than one definition reads, so that storing them is a choice."""
        readers: dict[str, int] = {}
        live = self._live()
        for d in fusion.defs.values():
            if d.value is None:
                continue
            for name in {n.buffer for n in walk(d.value) if isinstance(n, Load)}:
                readers[name] = readers.get(name, 0) + 1
        return tuple(
            n
            for n, count in readers.items()
            if count > 1 and fusion.defs[n].kind == "point" and n not in self.memory and n in live
        )

    # --- buffers --------------------------------------------------------------------------------------------

    def layout(self, name: str) -> Layout:
        """The buffer of definition ``name``."""
        if name in self.started:  # what is scattered into lies where the result does
            return self.layout(self.started[name])
        if name not in self.layouts and (inside := self.joins.layout(name, self.layout)) is not None:
            self.layouts[name] = inside
        if name not in self.layouts:
            d = self.fusion.defs[name]
            role = (
                d.kind
                if d.kind in {"input", "param", "constant"}
                else "output"
                if name in self.outputs
                else "temp"
            )
            self.layouts[name] = Layout.of(
                self._buffer_name(d), d.shape, d.strides, d.dtype, role, name in self.search_rows,
                self.orders.get(name, ()), source=d.source, data=d.data,
            )  # fmt: skip
        return self.layouts[name]

    def _buffer_name(self, d: Def) -> str:
        base = d.source.replace(".", "_") if d.kind == "param" else d.name
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in base).lstrip("_") or "t"
        base = base if not base[0].isdigit() else f"t{base}"
        name, n = base, 1
        while name in self.buffer_names.values():
            n += 1
            name = f"{base}_{n}"
        self.buffer_names[d.name] = name
        return name

    def _buffers(self, steps: Sequence[Single]) -> dict[str, Buffer]:
        for d in self.lowering.defs.values():
            if d.kind in {"input", "param"}:
                self.layout(d.name)
        used = {n for s in steps for n in _touched(s)}
        order = sorted(self.layouts.values(), key=lambda x: list(_ROLES).index(x.buffer.role))
        return {
            x.buffer.name: x.buffer
            for x in order
            if x.buffer.role in {"input", "param", "output"} or x.buffer.name in used
        }

    def _calls(self, fusion: Fusion) -> CallBuilder:
        return CallBuilder(
            self.lowering, fusion, self.layout, self.memory.__contains__, self._temporary, self.last
        )

    def _temporary(self, stem: str, shape: tuple[int, ...], dtype: str) -> str:
        label = self._buffer_name(Def(stem, (), dtype, "temp", ()))
        self.layouts[label] = Layout.of(label, shape, None, dtype, "temp", False)
        return label

    def _output_ref(self, base: str, v: Value) -> OutputRef:
        axes = self.lowering.own_axes(v.shape)
        load = v.at(axes)
        assert isinstance(load, Load)
        shape, strides, offset = self._calls(self.fusion).strided(base, load, axes, v.shape)
        return OutputRef(self.layout(base).buffer.name, shape, strides, offset)

    # --- steps ----------------------------------------------------------------------------------------------

    def _views_of(self, name: str) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shape and strides of the views of definition ``name`` that library calls take."""
        live = self._live()
        for d in self.lowering.defs.values():
            for value in tensors(d.call.args) if d.call is not None and d.name in live else ():
                axes = self.lowering.own_axes(value.shape)
                load = value.at(axes)
                if isinstance(load, Load) and load.buffer == name:
                    yield self._calls(self.fusion).strided(name, load, axes, value.shape)[:2]

    def _steps(self, fusion: Fusion, groups: Sequence[Group]) -> list[Single]:
        self.layouts, self.buffer_names, self.built = {}, {}, []
        builder = NestBuilder(fusion, self.layout, lambda n: n in self.memory, self.partition.segments)
        calls = self._calls(fusion)
        cuts = self._cuts(fusion, groups)
        epilogue_of = self._epilogues(fusion, groups, cuts) if self.partition.epilogues else {}
        inside: dict[int, list[int]] = {}
        for g, k in epilogue_of.items():
            inside.setdefault(k, []).append(g)
        steps: list[Single] = []
        for k, group in enumerate(groups):
            if group.library and recurs(fusion, group):
                steps.extend(calls.recurrence(group))
                continue
            if group.library:
                if k not in epilogue_of:
                    steps.append(calls.call(group))
                continue
            before = [calls.call(groups[g]) for g in inside.get(k, ())]
            parts: list[Part] = []
            for cut in cuts[k]:
                first = bool(before) and (len(cuts[k]) == 1 or bool(cut.follows))
                epilogue = builder.epilogue(cut.group) if first else None
                nests = builder.nests(cut.group) if epilogue is None else [epilogue]
                parts.append(Part(tuple(nests), epilogue is not None, partial(builder.after, cut.group)))
                self.built += [(cut.group, nest) for nest in nests]
            results = {x.buffer.name: x.buffer for x in self.layouts.values()} if before else {}
            steps.extend(followed(before, parts, results))
        return steps

    def _cuts(self, fusion: Fusion, groups: Sequence[Group]) -> list[list[Cut]]:
        """The nests of each group."""
        self.joins.cut.clear()
        if not (self.in_place and self.partition.in_place):
            return [[Cut(group)] for group in groups]
        readers: dict[str, set[int]] = {}
        for k, group in enumerate(groups):
            for name in {a.name for n in group.members for a in fusion.accesses[n]}:
                readers.setdefault(name, set()).add(k)

        def sole(name: str) -> bool:
            alone = len(readers.get(name, ())) == 1 and name not in self.outputs
            return self.partition.epilogues and alone

        return [self.joins.cuts(fusion, group, self.memory, sole) for group in groups]

    def _epilogues(
        self, fusion: Fusion, groups: Sequence[Group], cuts: Sequence[Sequence[Cut]]
    ) -> dict[int, int]:
        """Library group -> the one group that reads its result, where nothing else does; several to one group
        only where its nest is cut."""
        found: dict[int, int] = {}
        for k, group in enumerate(groups):
            if not group.library or len(group.members) != 1 or group.members[0] in self.outputs:
                continue
            if recurs(fusion, group):
                continue
            name = group.members[0]
            readers = [
                j
                for j, g in enumerate(groups)
                for n in g.members
                if any(a.name == name for a in fusion.accesses[n])
            ]
            if len(set(readers)) != 1 or groups[readers[0]].library:
                continue
            if readers[0] not in found.values() or any(c.follows == name for c in cuts[readers[0]]):
                found[k] = readers[0]
        return found


_ROLES = ("input", "param", "constant", "temp", "output")


def _size(shape: Sequence[int]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out


def _touched(step: Single) -> frozenset[str]:
    if isinstance(step, LoopNest):
        return step.reads() | frozenset(step.writes())
    found = {o.buffer for o in step.operands} | {step.output} | {n for n in step.outputs if n}
    return frozenset(found) | (_touched(step.epilogue) if step.epilogue is not None else frozenset())
