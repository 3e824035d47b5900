"""Working storage of a task: arrays of values that several points or passes need."""

from __future__ import annotations

from attrs import define

from kevolve_cpu.render.kinds import BITS, SCALAR
from kevolve_cpu.render.loops import Loops
from kevolve_cpu.render.operators import Value
from kevolve_cpu.render.printer import Array, Printer, identifier
from kevolve_cpu.render.scope import Scope

__all__ = ["Storage"]

_STACK_BYTES = 128 << 10  # larger working storage comes from the heap; OpenMP threads have 2 MiB stacks


@define
class Storage:
    """Declares and writes arrays; `Printer.load_array` reads them."""

    loops: Loops

    @property
    def printer(self) -> Printer:
        return self.loops.printer

    def size(self, axes: list[str]) -> int:
        """Elements of an array over ``axes``."""
        n = 1
        for a in axes:
            n *= self._length(a)
        return n

    def _length(self, axis: str) -> int:
        """Elements of working storage along ``axis``: the tile's, rounded up to whole vectors."""
        extent = self.loops.nest.extent(axis)
        if axis != self.loops.vector:
            return extent
        if axis in self.loops.bounds and self.loops.schedule.tile:
            extent = min(extent, self.loops.schedule.tile)
        return -(-extent // self.loops.schedule.lanes) * self.loops.schedule.lanes

    def array(self, scope: Scope, name: str, kind: str, axes: list[str], vec: bool) -> Array:
        """Declare working storage over ``axes`` (of whole vectors where ``vec``)."""
        axes = [a for a in axes if a != self.loops.vector] + [a for a in axes if a == self.loops.vector]
        strides: dict[str, int] = {}
        step = 1
        for a in reversed(axes):
            strides[a] = step
            step *= self._length(a)
        strides = {a: strides[a] for a in axes}
        stored = "u8" if kind == "b1" else kind
        width = scope.width if vec else 1
        if vec and kind == "b1":
            stored = "i32"
        ctype = self.printer.emitter(scope).vector(stored) if vec else SCALAR[stored]
        variable = self.printer.fresh(identifier(name))
        if step * width * BITS[stored] // 8 > _STACK_BYTES:
            self.printer.preamble.need("scratch")
            scope.lines.append(f"const Scratch<{ctype}> {variable}({step});")
        else:
            scope.lines.append(f"alignas(64) {ctype} {variable}[{step}];")
        return Array(variable, kind, strides, kind, vec)

    def save(self, array: Array, value: Value, scope: Scope) -> None:
        """Write ``value`` to the element of ``array`` at the current loop variables."""
        at = self.printer.element(array)
        lanes = self.printer.emitter(scope)
        if array.vec or self.loops.vector not in array.strides or scope.width == 1:
            if array.vec:
                value = lanes.mask(value, 32) if array.kind == "b1" else lanes.splat(value)
            scope.lines.append(f"{array.name}[{at}] = {value.code};")
            return
        self.printer.preamble.need("store")
        value = (
            self.printer.stored(lanes.splat(value), "bool", scope)
            if array.kind == "b1"
            else lanes.splat(value)
        )
        scope.lines.append(f"store({array.name} + {at}, {value.code});")
