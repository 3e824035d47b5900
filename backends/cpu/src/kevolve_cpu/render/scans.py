"""Prints scans: one point after another, or a vector of points along the scanned axis at a time."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Scan
from kevolve_cpu.render.accumulate import Accumulators
from kevolve_cpu.render.kinds import KIND
from kevolve_cpu.render.operators import Lanes, Value
from kevolve_cpu.render.printer import Array, identifier
from kevolve_cpu.render.reduction import Reduction
from kevolve_cpu.render.scope import Scope
from kevolve_cpu.render.storage import Storage

__all__ = ["Scans", "in_vectors"]


def in_vectors(s: Scan, axis: str) -> bool:
    """Whether a vector along ``axis`` may hold points of ``s``: sums and products along it that are
    accumulated in 64 bits.

    Float64 tensors are added one by one: the order of additions shows in the last bits of their sums, and
    those of PyTorch, whose order that is, are what they are compared with.
    """
    return s.axis == axis and s.combiner in ("sum", "prod") and s.value.dtype != "float64"


@define
class Scans:
    """Prints the scan of one pass. ``stores`` prints the stores that use its value at a point."""

    accumulators: Accumulators
    storage: Storage
    stores: Callable[[Scope], None]

    def run(self, s: Scan, task: Scope, order: list[str], read_later: bool) -> None:
        """Append scan ``s`` over the axes ``order`` to ``task``; a value that is ``read_later`` by another
        pass goes to working storage."""
        if s.combiner.startswith("arg"):
            raise UnsupportedError(
                f"scan with {s.combiner}", where=f"value {s.name}", mend="lower it to max or min"
            )
        loops, printer = self.accumulators.loops, self.accumulators.printer
        others = [a for a in order if a != s.axis]
        saved = self.storage.array(task, s.name, KIND[s.dtype], order, task.width > 1) if read_later else None
        # ATen's running sums and products are in float64, whatever the length.
        r = Reduction.of(s, KIND[s.value.dtype], wide=True)
        width = loops.schedule.lanes
        along = task.width == 1 and width > 1 and in_vectors(s, loops.vector) and r.kind in ("f64", "i64")

        def row(scope: Scope) -> None:
            if along:
                self._vectors(s, r, scope, saved)
            else:
                self._points(s, r, scope, saved)

        loops.loops(task, others, False, row)
        if saved is not None:
            printer.arrays[s.name] = saved

    def _vectors(self, s: Scan, r: Reduction, scope: Scope, saved: Array | None) -> None:
        """A vector of points at a time: combined within, then with what ran up to it."""
        loops, printer = self.accumulators.loops, self.accumulators.printer
        stem = printer.fresh(f"{identifier(s.name)}_run")
        _, ctype, start = r.parts(Lanes(printer.preamble, loops.schedule.lanes), True)[0]
        scope.lines.append(f"{ctype} {stem} = {start};")

        def body(inside: Scope) -> None:
            emitter = printer.emitter(inside)
            need = emitter.preamble.need
            value = emitter.splat(r.prepared(printer.emit(r.term, inside), emitter))
            text = value.code
            if s.reverse:
                if inside.tail:  # they come first
                    need("keep")
                    if not text.isidentifier():
                        text = printer.declare(value, inside, "t").code
                    text = f"keep({text}, {start}, {inside.tail})"
                need("backwards")
                text = f"backwards({text})"
            if s.exclusive:
                before = printer.declare(Value(stem, r.kind, True), inside, f"{stem}_before").code
            if s.combiner == "prod" and r.kind == "f64":
                need("running_products")
                text = f"run_on_products({stem}, {text})"
            else:
                need("running")
                need("plus" if s.combiner == "sum" else "times")
                functor = "Plus{}" if s.combiner == "sum" else "Times{}"
                text = f"run_on({stem}, {text}, {start}, {functor})"
            if s.exclusive:
                need("moved_up")
                text = f"moved_up<1>({before}, {text})"
            if s.reverse:
                text = f"backwards({text})"
            sums = printer.declare(Value(text, r.kind, True), inside, f"{identifier(s.name)}_wide")
            running = r.result([sums.code], True, emitter)
            same = running.code == sums.code
            inside.values[s.name] = sums if same else printer.declare(running, inside, identifier(s.name))
            if saved is not None:
                self.storage.save(saved, inside.values[s.name], inside)
            self.stores(inside)

        loops.over_vectors(scope, s.axis, body, loops.schedule.unroll, backwards=s.reverse)

    def _points(self, s: Scan, r: Reduction, scope: Scope, saved: Array | None) -> None:
        """One point after another (lanes are independent rows, if anything)."""
        loops, printer = self.accumulators.loops, self.accumulators.printer
        vec = scope.width > 1
        lanes = printer.emitter(scope)
        stem = printer.fresh(f"{identifier(s.name)}_run")
        ctype, start = r.parts(lanes, vec)[0][1:]
        scope.lines.append(f"{ctype} {stem} = {start};")
        inside = scope.inner(s.axis)
        if s.exclusive:
            before = printer.declare(r.result([stem], vec, lanes), inside, identifier(s.name))
            self.accumulators.take(r, s, inside, [stem], vec)
            inside.values[s.name] = before
        else:
            self.accumulators.take(r, s, inside, [stem], vec)
            inside.values[s.name] = printer.declare(r.result([stem], vec, lanes), inside, identifier(s.name))
        if saved is not None:
            self.storage.save(saved, inside.values[s.name], inside)
        self.stores(inside)
        v, n = printer.loops[s.axis], loops.nest.extent(s.axis)
        header = (
            f"for (long {v} = {n - 1}; {v} >= 0; --{v}) {{"
            if s.reverse
            else f"for (long {v} = 0; {v} < {n}; ++{v}) {{"
        )
        scope.block(header, inside)
