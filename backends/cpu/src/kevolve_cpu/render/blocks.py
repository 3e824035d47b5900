"""Transposed operands: square blocks of them change rows and columns in registers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import define, frozen

from kevolve_core.ir import Load, LoopNest, Search, Store
from kevolve_cpu.render.affine import Affine, analyse
from kevolve_cpu.render.loops import Loops
from kevolve_cpu.render.passes import Pass
from kevolve_cpu.render.printer import identifier, raw_kind
from kevolve_cpu.render.scope import Scope
from kevolve_cpu.render.stores import Stores
from kevolve_cpu.render.tidy import expressions, uses

__all__ = ["Blocks", "Crossing", "crossing"]


@frozen
class Crossing:
    """``loads`` of a pointwise nest lie along ``axis`` in memory, its stores along another."""

    axis: str
    loads: tuple[Load, ...]


def crossing(nest: LoopNest, vector: str, written: Collection[str], lanes: int) -> Crossing | None:
    """The operands that lie across ``vector``, where blocks of ``lanes`` points along both axes can be
    taken at once: every statement runs at each of them, and all such operands lie along one axis."""
    if lanes == 1 or nest.extent(vector) < lanes:
        return None
    found: dict[Load, str] = {}
    for s in nest.body:
        if isinstance(s, Search):
            return None
        for e in uses(expressions(s)):
            if isinstance(e, Load):
                if e.buffer in written:
                    return None
                form = analyse(e.index[0], {})
                along = next((a for a, k in form.terms.items() if k == 1 and a != vector), "")
                if e.mask is None and not form.rest and along and form.stride(vector) not in (0, 1):
                    found[e] = along
    axes = set(found.values())
    if len(axes) != 1 or nest.extent(axis := axes.pop()) < lanes:
        return None
    stores = [nest.span(s) for s in nest.body if isinstance(s, Store)]
    if len(nest.inner_axes) or not all({axis, vector} <= span for span in stores):
        return None
    return Crossing(axis, tuple(found))


@define
class Blocks:
    """Prints one task of a nest with a `Crossing`: points ``first`` to ``last`` of its axis (text)."""

    loops: Loops
    stores: Stores
    found: Crossing
    first: str
    last: str

    def run(self, task: Scope, passes: Sequence[Pass]) -> None:
        """Whole blocks in registers, then the points that are left in vectors."""
        loops, vector, axis = self.loops, self.loops.vector, self.found.axis
        nest, side = loops.nest, loops.schedule.lanes
        low, high = loops.range(vector)
        j, i = loops.printer.loops[vector], loops.printer.loops[axis]
        ragged = nest.extent(axis) % side > 0
        if not ragged and nest.extent(vector) % side == 0:
            self._block(task, f"for (long {j} = {low}; {j} < {high}; {j} += {side})", passes)
            return
        whole = loops.printer.fresh(f"{j}_whole")
        end = f"{low} + ({high} - {low}) / {side} * {side}" if low != "0" else f"{high} / {side} * {side}"
        test = f"{self.last} - {self.first} < {side} ? {low} : " if ragged else ""
        task.lines.append(f"const long {whole} = {test}{end};")
        self._block(task, f"for (long {j} = {low}; {j} < {whole}; {j} += {side})", passes)
        rest = task.inner(axis)
        bounds, loops.bounds[vector] = loops.bounds.get(vector), (whole, high)
        loops.loops(rest, [vector], True, lambda scope: self._stores(scope, passes))
        if bounds is None:
            del loops.bounds[vector]
        else:
            loops.bounds[vector] = bounds
        task.block(f"for (long {i} = {self.first}; {i} < {self.last}; ++{i}) {{", rest)

    def _block(self, task: Scope, header: str, passes: Sequence[Pass]) -> None:
        printer, vector, axis = self.loops.printer, self.loops.vector, self.found.axis
        side = self.loops.schedule.lanes
        block = task.inner(vector, width=side)
        row = printer.fresh("row")
        read: dict[tuple[str, Affine], str] = {}
        forms = {e: (e.buffer, analyse(e.index[0], {})) for e in self.found.loads}
        need = printer.preamble.need
        need("load")
        need("transpose_block")
        for buffer, form in dict.fromkeys(forms.values()):
            name = printer.fresh(f"{identifier(printer.names[buffer])}_block")
            kind = raw_kind(printer.buffers[buffer].dtype)
            v = printer.emitter(block).vector("u16" if kind == "f16" else kind)
            terms = [self._term(a, k, row) for a, k in form.terms.items()]
            terms += [str(form.constant)] if form.constant else []
            place = f"{printer.names[buffer]} + {' + '.join(terms)}"
            # A block reads few bytes of many rows, which no hardware prefetcher follows: the next block's are
            # asked for here (x.t() of 4096 x 1024: 4.1 ms against 5.9 ms without, one core).
            block.lines += [
                f"{v} {name}[{side}];",
                f"#pragma GCC unroll {side}",
                f"for (int {row} = 0; {row} < {side}; ++{row}) {{",
                f"    {name}[{row}] = load<{v}>({place});",
                f"    __builtin_prefetch({place} + {side});",
                "}",
                f"transpose_block({name});",
            ]
            read[buffer, form] = f"{name}[{row}]"
            if kind == "f16":  # compilers know how to shuffle integers of 16 bits
                read[buffer, form] = f"(({printer.emitter(block).vector(kind)}){name}[{row}])"
        inside = block.inner(axis)
        inside.lines.append(f"const long {printer.loops[axis]} = {self.first} + {row};")
        printer.lanes_of = {e: read[form] for e, form in forms.items()}
        self._stores(inside, passes)
        printer.lanes_of = {}
        block.lines.append(f"#pragma GCC unroll {side}")
        block.block(f"for (int {row} = 0; {row} < {side}; ++{row}) {{", inside)
        task.block(f"{header} {{", block)

    def _term(self, axis: str, k: int, row: str) -> str:
        name = self.loops.printer.loops[axis]
        text = (
            self.first
            if axis == self.found.axis
            else f"({name} + {row})"
            if axis == self.loops.vector
            else name
        )
        return text if k == 1 else f"{text} * {k}"

    def _stores(self, scope: Scope, passes: Sequence[Pass]) -> None:
        for p in passes:
            for s in p.sinks:
                assert isinstance(s, Store)  # the nest has no inner axes
                self.stores.store(s, scope)
