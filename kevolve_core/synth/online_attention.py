"""Attention found in a program: two products around a softmax become one step, whose scores need no memory.

It works on the lowered program, so it sees the operator's own attention and a user's parts alike: whatever
the nest between the products computes of a score before its softmax (scale, mask, bias) stays an expression.
What it is not certain of stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from kevolve_core.ir import (
    Attention,
    Axis,
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Operand,
    Program,
    Single,
    Step,
    Store,
    address,
    walk,
)
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.index import ZERO, Indexer, integer, linear
from kevolve_core.synth.places import element, joined, placed, substituted
from kevolve_core.synth.softmax import FLOATS, Softmax, inlined, softmax_of
from kevolve_core.synth.statements import mapped
from kevolve_core.synth.visible import unmasked, visible

__all__ = ["ONLINE_ATTENTION", "attended", "online_attention"]

ONLINE_ATTENTION = "online_attention"  # the rewrite's name
_LARGEST = 512  # of a head: a block of queries and one of results have to fit a processor's registers
_PRODUCTS = ("aten.mm.default", "aten.bmm.default")


def online_attention(graph: Graph) -> Graph:
    """Note that ``graph`` may hold attention: two products and exponentials. A `Partition` says whether it
    becomes one step."""
    products = sum(n.op in _PRODUCTS for n in graph.nodes)
    exponentials = any("softmax" in n.op or n.op == "aten.exp.default" for n in graph.nodes)
    return evolve(graph, attention=True) if products > 1 and exponentials else graph


def attended(program: Program) -> Program:
    """``program`` with every attention in it as one step."""
    at = 0
    while at < len(program.steps):
        step = program.steps[at]
        found = _found(program, at) if isinstance(step, LibraryCall) and _is_product(step) else None
        if found is None:
            at += 1
            continue
        program = found
    return program


def _is_product(call: LibraryCall) -> bool:
    plain = not (call.attributes or call.outputs or call.repeat or call.order)
    return call.op.removesuffix(".default") in ("aten::mm", "aten::bmm") and plain


def _reads(step: Step) -> frozenset[str]:
    if isinstance(step, LoopNest):
        return step.reads()
    if isinstance(step, Attention):
        return frozenset[str]().union(*map(_reads, step.steps))
    inside = frozenset[str]() if step.epilogue is None else step.epilogue.reads()
    return inside | {o.buffer for o in step.operands}


def _writes(step: Step) -> frozenset[str]:
    if isinstance(step, LoopNest):
        return frozenset(step.writes())
    if isinstance(step, Attention):
        return frozenset[str]().union(*map(_writes, step.steps))
    inside = () if step.epilogue is None else step.epilogue.writes()
    return frozenset((*inside, step.output, *step.outputs))


@frozen
class _Parts:
    """Places in a program of what may be one attention: the product of scores, its softmax (the same place
    where it is the product's epilogue), and the product with values."""

    program: Program
    first: int
    softmax: int
    second: int

    def call(self, at: int) -> LibraryCall:
        step = self.program.steps[at]
        assert isinstance(step, LibraryCall)
        return step

    @property
    def nest(self) -> LoopNest:
        step = self.program.steps[self.softmax]
        nest = step.epilogue if isinstance(step, LibraryCall) else step
        assert isinstance(nest, LoopNest)
        return nest

    def own(self, buffer: str, *readers: int) -> bool:
        """Whether nobody but the steps at ``readers`` sees ``buffer``."""
        p = self.program
        if p.buffers[buffer].role != "temp" or any(o.buffer == buffer for o in p.outputs):
            return False
        return all(k in readers for k, s in enumerate(p.steps) if buffer in _reads(s))


def _found(program: Program, second: int) -> Program | None:
    """``program`` with the attention whose product with values is at ``second`` as one step."""
    call = program.steps[second]
    assert isinstance(call, LibraryCall)
    weights = call.operands[0].buffer
    writers = [k for k, s in enumerate(program.steps) if weights in _writes(s)]
    if len(writers) != 1 or writers[0] >= second:
        return None
    at = writers[0]
    step = program.steps[at]
    nest = step.epilogue if isinstance(step, LibraryCall) else step
    if not isinstance(nest, LoopNest) or nest.writes() != (weights,):
        return None
    for k in range(at + 1) if isinstance(step, LoopNest) else (at,):
        product = program.steps[k]
        if isinstance(product, LibraryCall) and _is_product(product) and product.output in nest.reads():
            parts = _Parts(program, k, at, second)
            if parts.own(weights, second) and parts.own(product.output, at):
                made = _Recogniser.of(parts)
                if made is not None:
                    return made
    return None


# --- the softmax --------------------------------------------------------------------------------------------


def _pointwise(nest: LoopNest) -> bool:
    return all(
        isinstance(s, Let) or (isinstance(s, Store) and s.mode == "set" and s.mask is None) for s in nest.body
    )


def _cheap(e: Expr) -> bool:
    """Whether ``e`` may be computed again for every block of queries: an element, converted or scaled."""
    while isinstance(e, Op):
        if e.name == "cast":
            e = e.args[0]
        elif e.name == "mul" and any(isinstance(a, Const) for a in e.args):
            e = next((a for a in e.args if not isinstance(a, Const)), ZERO)
        else:
            return False
    return isinstance(e, Load) and e.mask is None


# --- the step -----------------------------------------------------------------------------------------------


@frozen
class _Recogniser:
    parts: _Parts
    softmax: Softmax
    ix: Indexer
    axes: Mapping[str, Axis]  # by the letters of `kevolve_core.ir.Attention`

    @classmethod
    def of(cls, parts: _Parts) -> Program | None:
        """The program with the attention as one step, or None where the parts are something else."""
        left, right = parts.call(parts.first).operands
        weights, value = parts.call(parts.second).operands
        batch = left.shape[0] if len(left.shape) == 3 else 1
        m, k, n, w = left.shape[-2], left.shape[-1], right.shape[-1], value.shape[-1]
        softmax = softmax_of(parts.nest)
        if softmax is None or weights.shape != (*left.shape[:-2], m, n) or min(batch, m, k, w) < 1 or n < 2:
            return None
        if max(k, w) > _LARGEST:
            return None
        ix = Indexer()
        axes = {x: Axis(x, extent) for x, extent in zip("bmnkw", (batch, m, n, k, w), strict=True)}
        ix.extents.update({a.name: a.extent for a in axes.values()})
        return cls(parts, softmax, ix, axes)._made()

    def _at(self, letters: str) -> tuple[Expr, ...]:
        return tuple(Index(x) if self.axes[x].extent > 1 else ZERO for x in letters)

    def _flat(self, letters: str) -> Expr:
        """The position in a dense tensor of these axes."""
        return self.ix.ravel(self._at(letters), [self.axes[x].extent for x in letters])

    def _within(self, operand: Operand, letters: str) -> Expr:
        """The position in its buffer of an element of ``operand``."""
        index = self._at(letters)[-len(operand.shape) :]
        return self.ix.add(self.ix.dot(index, operand.strides), integer(operand.offset))

    def _made(self) -> Program | None:
        parts, p = self.parts, self.parts.program
        first, second = parts.call(parts.first), parts.call(parts.second)
        score = self._score(first.output, second.operands[0])
        query_of, key_of = first.operands
        operands = (
            (query_of, self._within(query_of, "bmk")),
            (key_of, self._within(key_of, "bkn")),
            (second.operands[1], self._within(second.operands[1], "bnw")),
        )
        if score is None or {p.buffers[o.buffer].dtype for o, _ in operands} - FLOATS:
            return None
        before = self._before([o.buffer for o, _ in operands])
        values = [self._operand(o, flat, before, k == 0) for k, (o, flat) in enumerate(operands)]
        taken = {o.buffer for (o, _), v in zip(operands, values, strict=True) if v is not None}
        before = {at for at in before if _writes(p.steps[at]) <= taken}
        for k, (o, flat) in enumerate(operands):
            if values[k] is None or self._writer(o.buffer) not in before:
                values[k] = element(p.buffers[o.buffer], flat, self.ix)
        query, key, value = values
        if query is None or key is None or value is None:
            return None
        rest, last, result = self._after(second)
        own = sorted({*before, parts.first, parts.softmax, parts.second, *last})
        reads = {e.buffer for x in (query, key, value, score) for e in walk(x) if isinstance(e, Load)}
        reads = (reads | result.reads()) - {first.output, second.output}
        if reads & {b for at in own for b in _writes(p.steps[at])} or not self._movable(own):
            return None
        singles: list[Single] = []
        for at in own:
            single = p.steps[at]
            assert not isinstance(single, Attention)
            if rest is not None and at == parts.second:
                assert isinstance(single, LibraryCall)
                single = evolve(single, epilogue=None)
            singles.append(single)
        covers = [c for s in singles for c in _covers(s)]
        axes = self.axes
        step = Attention(
            f"attention_{parts.nest.name.removeprefix('k_')}", tuple(singles),
            axes["b"], axes["m"], axes["n"], axes["k"], axes["w"], query, key, value, first.output, score,
            second.output, result, self.softmax.safe, visible(score, "m", "n"), tuple(dict.fromkeys(covers)),
            unmasked(score, first.output, "m", "n"),
        )  # fmt: skip
        steps: list[Step] = []
        for at, given in enumerate(p.steps):
            if at == own[-1]:
                steps += [step] if rest is None else [step, rest]
            elif at not in own:
                steps.append(given)
        return evolve(p, steps=tuple(steps))

    def _score(self, product: str, weights: Operand) -> Expr | None:
        """What the softmax is taken of, over the step's axes; None where it is taken in another direction, or
        the weights are not what the second product reads."""
        nest, softmax, buffers = self.parts.nest, self.softmax, self.parts.program.buffers
        loads = {e for e in walk(softmax.score) if isinstance(e, Load) and e.buffer == product}
        if len(loads) != 1 or weights.buffer in nest.reads():
            return None
        load = next(iter(loads))
        by = placed(load, nest, buffers[product], self._flat("bmn"), self.ix)
        form = address(load, buffers[product])
        if by is None or form is None or load.mask is not None:
            return None
        n = self.axes["n"].extent
        inner = {a for a, c in form[1].items() if c < n and nest.extent(a) > 1}
        if inner != {a for a in softmax.axes if nest.extent(a) > 1}:
            return None
        if math.prod(nest.extent(a) for a in inner) != n:
            return None
        index = [self.ix.substitute(e, by) for e in softmax.store.index]
        stored = joined(self.ix.dot(index, buffers[weights.buffer].stride))
        if linear(stored) != linear(self._within(weights, "bmn")):
            return None
        return substituted(self.ix, softmax.score, by)

    def _writer(self, buffer: str) -> int | None:
        writers = [k for k, s in enumerate(self.parts.program.steps) if buffer in _writes(s)]
        return writers[0] if len(writers) == 1 else None

    def _before(self, buffers: Sequence[str]) -> set[int]:
        """Places of pointwise nests that only prepare operands."""
        parts, steps = self.parts, self.parts.program.steps
        found: set[int] = set()
        for buffer in buffers:
            at = self._writer(buffer)
            step = None if at is None else steps[at]
            if at is None or not isinstance(step, LoopNest) or not _pointwise(step):
                continue
            if all(b in buffers and parts.own(b, parts.first, parts.second) for b in step.writes()):
                found.add(at)
        return found

    def _operand(self, operand: Operand, flat: Expr, before: set[int], once: bool) -> Expr | None:
        """An operand as the nest before computes it; None where that is better left in memory. ``once`` is
        for one that is loaded once a block of queries, and may cost more."""
        at = self._writer(operand.buffer)
        if at is None or at not in before:
            return None
        nest, b = self.parts.program.steps[at], self.parts.program.buffers[operand.buffer]
        assert isinstance(nest, LoopNest)
        stores = [s for s in nest.body if isinstance(s, Store) and s.buffer == operand.buffer]
        by = placed(stores[0], nest, b, flat, self.ix) if len(stores) == 1 else None
        if by is None:
            return None
        lets = {s.name: s.value for s in nest.body if isinstance(s, Let)}
        value = substituted(self.ix, inlined(stores[0].value, lets, {}), by)
        loaded = {e.dtype for e in walk(value) if isinstance(e, Load)}
        if not (once or _cheap(value)) or value.dtype not in FLOATS or "float64" in loaded:
            return None
        exact = isinstance(value, Load) or _is_cast(value) or b.dtype == "float32"
        return value if exact and value.dtype == b.dtype else Op("cast", (value,), b.dtype)

    def _after(self, second: LibraryCall) -> tuple[LoopNest | None, tuple[int, ...], LoopNest]:
        """(nest that has to follow on its own, places of absorbed ones, what is stored)."""
        parts, p = self.parts, self.parts.program
        b = p.buffers[second.output]
        axes = tuple(self.axes[x] for x in "bmw")
        load = Load(b.name, (*(ZERO for _ in b.shape[1:]), self._flat("bmw")), b.dtype)
        plain = LoopNest(second.name, axes, len(axes), (Store(b.name, load.index, load),))
        if second.epilogue is not None:
            taken = self._followed(second.epilogue, b) if parts.own(b.name, parts.second) else None
            return (second.epilogue, (), plain) if taken is None else (None, (), taken)
        for at, step in enumerate(p.steps):
            if isinstance(step, LoopNest) and b.name in step.reads() and parts.own(b.name, at):
                taken = self._followed(step, b)
                return (None, (), plain) if taken is None else (None, (at,), taken)
        return None, (), plain

    def _followed(self, nest: LoopNest, output: Buffer) -> LoopNest | None:
        """``nest``, which reads ``output``, over the step's axes; None where it is not pointwise over it."""
        loads = {
            e
            for root in nest.expressions()
            for e in walk(root)
            if isinstance(e, Load) and e.buffer == output.name
        }
        if len(loads) != 1 or not _pointwise(nest):
            return None
        load = next(iter(loads))
        by = placed(load, nest, output, self._flat("bmw"), self.ix) if load.mask is None else None
        if by is None:
            return None
        axes = tuple(self.axes[x] for x in "bmw")
        body = tuple(mapped(s, lambda e: substituted(self.ix, e, by)) for s in nest.body)
        return LoopNest(nest.name, axes, len(axes), body, nest.covers, nest.anchor)

    def _movable(self, own: Sequence[int]) -> bool:
        """Whether the steps at ``own`` may all run at the last one's place: nothing in between touches what
        they write, or writes what they read."""
        steps = self.parts.program.steps
        reads: set[str] = set()
        writes: set[str] = set()
        for at in range(own[0], own[-1] + 1):
            if at in own:
                reads |= _reads(steps[at])
                writes |= _writes(steps[at])
            elif _writes(steps[at]) & (reads | writes) or _reads(steps[at]) & writes:
                return False
        return True


def _is_cast(e: Expr) -> bool:
    return isinstance(e, Op) and e.name == "cast"


def _covers(step: Single) -> tuple[str, ...]:
    inside = step.epilogue.covers if isinstance(step, LibraryCall) and step.epilogue is not None else ()
    return (*step.covers, *inside)
