"""Prints loops: plain ones, by vectors with the lanes that are left, and in parallel over chunks."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from kevolve_core.ir import LoopNest
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.printer import Printer
from kevolve_cpu.render.scope import Scope

__all__ = ["Chunks", "Loops", "Refs"]

_PARTS = 64  # chunks of a loop split among threads: fixed, so that sums repeat on any machine; estimated

Refs = list[tuple[str, str, str]]  # (type, name, start value) of the accumulators of a loop


@define
class Chunks:
    """A loop over chunks of an axis: its header, the name of its variable and how many there are."""

    header: str
    part: str
    count: int


@define
class Loops:
    """Prints loops of one nest. ``bounds`` has, an axis, the names of the variables that bound it here."""

    printer: Printer
    nest: LoopNest
    schedule: Schedule
    vector: str
    bounds: dict[str, tuple[str, str]] = field(factory=dict)

    def range(self, axis: str) -> tuple[str, str]:
        """First and past-the-last point of ``axis`` as text."""
        return self.bounds.get(axis, ("0", str(self.nest.extent(axis))))

    def split(
        self, task: Scope, order: list[str], split: bool, vectorised: bool, body: Callable[[Scope], None]
    ) -> None:
        """Loops over ``order`` around ``body``; with ``split`` in parallel over chunks of the first."""
        if not split:
            self.loops(task, order, vectorised, body)
            return
        chunk = task.inner()
        chunks = self.chunk(chunk, order[0], vectorised and order[0] == self.vector)
        self.loops(chunk, order, vectorised, body)
        del self.bounds[order[0]]
        task.lines.append(self.parallel)
        task.block(chunks.header, chunk)

    @property
    def parallel(self) -> str:
        """The directive before a loop over chunks."""
        threads = f" num_threads({self.schedule.threads})" if self.schedule.threads else ""
        return f"#pragma omp parallel for schedule(static){threads}"

    def chunk(self, chunk: Scope, axis: str, vectorised: bool) -> Chunks:
        """Bind ``axis`` to a part of its range in block ``chunk``."""
        extent = self.nest.extent(axis)
        unit = self.schedule.lanes * self.schedule.unroll if vectorised else 1
        parts = max(1, min(_PARTS, extent // unit))
        size = -(-extent // (parts * unit)) * unit
        parts = -(-extent // size)
        name = self.printer.loops[axis]
        lo, hi = self.printer.fresh(f"{name}_first"), self.printer.fresh(f"{name}_last")
        self.bounds[axis] = (lo, hi)
        part = self.printer.fresh("part")
        chunk.lines.append(f"const long {lo} = {part} * {size};")
        stop = f"{lo} + {size}"
        last = f"{stop} < {extent} ? {stop} : {extent}" if extent % size else stop
        chunk.lines.append(f"const long {hi} = {last};")
        return Chunks(f"for (long {part} = 0; {part} < {parts}; ++{part}) {{", part, parts)

    def loops(
        self,
        scope: Scope,
        order: list[str],
        vectorised: bool,
        body: Callable[[Scope], None],
        refs: Refs | None = None,
    ) -> None:
        """Nested loops over ``order``, the vector axis by vectors where ``vectorised``."""
        if not order:
            body(scope)
            return
        axis, rest = order[0], order[1:]
        if vectorised and axis == self.vector:
            self.over_vectors(scope, axis, body, self.schedule.unroll, refs)
            return
        inside = scope.inner(axis)
        self.loops(inside, rest, vectorised, body, refs)
        lo, hi = self.range(axis)
        v = self.printer.loops[axis]
        scope.block(f"for (long {v} = {lo}; {v} < {hi}; ++{v}) {{", inside)

    def over_vectors(
        self,
        scope: Scope,
        axis: str,
        body: Callable[[Scope], None],
        unroll: int,
        refs: Refs | None = None,
        backwards: bool = False,
    ) -> None:
        """A loop over ``axis`` by whole vectors, then the lanes that are left. ``refs`` are accumulators,
        declared by the caller as ``name_0 … name_(unroll-1)``; the body knows them by ``name``. A loop over
        all of ``axis`` may run ``backwards``, the lanes that are left first."""
        lanes, v = self.schedule.lanes, self.printer.loops[axis]
        extent = self.nest.extent(axis)
        left = extent % lanes
        refs = refs or []
        tail = "lanes" if left else ""
        inside = scope.inner(axis, width=lanes, tail=tail)
        body(inside)
        lanes_used = any("lanes" in line for line in inside.lines)
        lanes_argument = "auto lanes" if lanes_used else "auto"
        arguments = ["long " + v, *([lanes_argument] if left else []), *(f"{t} &{n}" for t, n, _ in refs)]
        at = self.printer.fresh("at")
        lo, hi = self.bounds.get(axis, ("", ""))
        vectors = extent // lanes
        unroll = 1 if backwards else max(1, min(unroll, vectors))
        if not left and not refs and unroll == 1:
            header = f"for (long {v} = {lo or 0}; {v} < {hi or extent}; {v} += {lanes})"
            back = f"for (long {v} = {extent - lanes}; {v} >= 0; {v} -= {lanes})"
            scope.block(f"{back if backwards else header} {{", inside)
            return
        if left:
            self.printer.preamble.need("lanes")
        scope.block(
            f"const auto {at} = [&]({', '.join(arguments)}) __attribute__((always_inline)) {{", inside, "};"
        )

        def call(where: str, which: str, copy: int) -> str:
            names = [f"{n}_{copy}" for _, n, _ in refs]
            return f"{at}({', '.join([where, *([which] if left else []), *names])});"

        if backwards:
            scope.lines.append(call(str(extent - left), f"First<{left}>{{}}", 0))
            back = f"for (long {v} = {extent - left - lanes}; {v} >= 0; {v} -= {lanes})"
            if vectors:
                self._for(scope, back, [call(v, "All{}", 0)])
            return
        step = lanes * unroll
        steps = [call(v if not u else f"{v} + {u * lanes}", "All{}", u) for u in range(unroll)]
        if lo:
            rest = unroll > 1 or left
            declared = f"long {v} = {lo};"
            scope.lines.append(f"{v} = {lo};" if declared in scope.lines else declared)
            self._for(scope, f"for (; {v} + {step} <= {hi}; {v} += {step})", steps)
            if unroll > 1:
                self._for(scope, f"for (; {v} + {lanes} <= {hi}; {v} += {lanes})", [call(v, "All{}", 0)])
            if left and rest:
                scope.lines.append(f"if ({v} < {hi}) {call(v, f'First<{left}>{{}}', 0)}")
            return
        main = extent // step * step
        if main:
            self._for(scope, f"for (long {v} = 0; {v} < {main}; {v} += {step})", steps)
        if main < extent - left:
            self._for(
                scope,
                f"for (long {v} = {main}; {v} < {extent - left}; {v} += {lanes})",
                [call(v, "All{}", 0)],
            )
        if left:
            scope.lines.append(call(str(extent - left), f"First<{left}>{{}}", 0))

    @staticmethod
    def _for(scope: Scope, header: str, statements: list[str]) -> None:
        if len(statements) == 1:
            scope.lines.append(f"{header} {statements[0]}")
            return
        scope.lines += [f"{header} {{", *("    " + s for s in statements), "}"]
