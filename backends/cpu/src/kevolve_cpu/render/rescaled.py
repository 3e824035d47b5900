"""Prints a maximum and the sum of exponentials below it as one loop over blocks of a row (see `online`)."""

from __future__ import annotations

import math
from collections.abc import Callable

from attrs import define, evolve

from kevolve_core.ir import Reduce
from kevolve_cpu.render.accumulate import Accumulation, Accumulators
from kevolve_cpu.render.kinds import KIND, SCALAR, literal, lowest
from kevolve_cpu.render.loops import Loops
from kevolve_cpu.render.online import Online
from kevolve_cpu.render.operators import Lanes, Value
from kevolve_cpu.render.printer import Printer, identifier
from kevolve_cpu.render.reduction import Reduction
from kevolve_cpu.render.scope import Scope

__all__ = ["RescaledSum"]


@define
class RescaledSum:
    """Prints the pair of one nest."""

    accumulators: Accumulators

    @property
    def loops(self) -> Loops:
        return self.accumulators.loops

    @property
    def printer(self) -> Printer:
        return self.loops.printer

    def run(self, pair: Online, task: Scope, block: int, others: Callable[[Scope], None]) -> None:
        """Append the loop to ``task``, which knows both values afterwards. ``block`` elements are read twice;
        ``others`` prints what else runs at every point of their second reading."""
        axis = pair.top.axes[0]
        kind = KIND[pair.top.dtype]
        top, total = (self.printer.fresh(f"{identifier(s.name)}_so_far") for s in (pair.top, pair.total))
        task.lines += [f"{SCALAR[kind]} {top} = {lowest(kind)};", f"double {total} = 0.0;"]
        self._blocks(pair, task, block, others, top, total)
        again = task.inner()
        extent = self.loops.nest.extent(axis)
        for s, variable in ((pair.top, top), (pair.total, total)):
            found = self.accumulators.run([s], lambda _: None, again, [axis], extent, False, True)[s.name]
            again.lines.append(f"{variable} = {found.code};")
            again.values[s.name] = evolve(found, code=variable)
        absolute = "__builtin_fabsf" if kind == "f32" else "__builtin_fabs"
        task.lines.append("// an infinity or NaN: both passes as they stand")
        limit = literal(math.inf, kind)
        task.block(f"if (!({absolute}({top}) < {limit} && {total} == {total})) {{", again)
        task.values[pair.top.name] = Value(top, kind)
        sum_kind = KIND[pair.total.dtype]
        value = self.printer.convert(Value(total, "f64"), sum_kind, task)
        task.values[pair.total.name] = self.printer.declare(value, task, identifier(pair.total.name))

    def _blocks(
        self,
        pair: Online,
        task: Scope,
        block: int,
        others: Callable[[Scope], None],
        top: str,
        total: str,
    ) -> None:
        """The loop over blocks; ``top`` and ``total`` are the running values' names."""
        axis = pair.top.axes[0]
        kind = KIND[pair.top.dtype]
        v, extent = self.printer.loops[axis], self.loops.nest.extent(axis)
        first, last = self.printer.fresh(f"{v}_block"), self.printer.fresh(f"{v}_end")
        inside = task.inner()
        stop = f"{first} + {block}"
        inside.lines.append(f"const long {last} = {stop} < {extent} ? {stop} : {extent};")
        self.loops.bounds[axis] = (first, last)
        largest = self._block(pair.top, inside, lambda _: None)
        inside.lines += [
            f"if ({largest} > {top}) {{",
            f"    {total} *= __builtin_exp((double){top} - (double){largest});",
            f"    {top} = {largest};",
            "}",
        ]
        center = self.printer.fresh("center")
        inside.lines.append(
            f"const {SCALAR[kind]} {center} = {top} > {lowest(kind)} ? {top} : {literal(0, kind)};"
        )
        inside.values[pair.top.name] = Value(center, kind)
        inside.lines.append(f"{total} += (double){self._block(pair.total, inside, others)};")
        del self.loops.bounds[axis]
        task.block(f"for (long {first} = 0; {first} < {extent}; {first} += {block}) {{", inside)

    def _block(self, s: Reduce, inside: Scope, others: Callable[[Scope], None]) -> str:
        """``s`` over the block; gives the name of its result. Sums are in the type they accumulate in."""
        schedule, axis = self.loops.schedule, s.axes[0]
        unroll = max(1, min(schedule.unroll, self.loops.nest.extent(axis) // schedule.lanes))
        reduction = evolve(Reduction.of(s, KIND[s.value.dtype]), drops_nan=True)
        group = Accumulation(
            {s.name: reduction},
            {s.name: self.printer.fresh(f"{identifier(s.name)}_acc")},
            Lanes(self.printer.preamble, schedule.lanes),
            True,
            [f"_{u}" for u in range(unroll)],
        )

        def body(scope: Scope) -> None:
            self.accumulators.take(reduction, s, scope, group.names(s.name), True)
            others(scope)

        group.declare(inside)
        self.loops.loops(inside, [axis], True, body, group.refs)
        return group.close(inside, True, self.printer)[s.name][0]
