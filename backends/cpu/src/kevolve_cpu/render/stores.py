"""Prints stores: whole vectors, past the caches, scattered, masked and atomic."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, Store
from kevolve_cpu.render.affine import analyse
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.kinds import BITS, KIND, STORAGE
from kevolve_cpu.render.operators import Value
from kevolve_cpu.render.printer import Printer
from kevolve_cpu.render.scope import Scope

__all__ = ["Stores"]

#: mode -> (helper for lanes, functor of its combination)
_SCATTER = {
    "set": ("scatter", ""),
    "add": ("scatter_add", ""),
    "max": ("scatter_update", "Larger"),
    "min": ("scatter_update", "Smaller"),
}


@define
class Stores:
    """Prints the stores of one nest. With ``whole_lines`` what goes past the caches fills lines of 64 bytes:
    where the rest of a line is not stored next, half of one costs more than a cached store."""

    printer: Printer
    schedule: Schedule
    vector: str
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    whole_lines: bool = False

    def store(self, s: Store, scope: Scope) -> None:
        """``buffer[index] = value`` at this point, or for the lanes of a vector."""
        dtype = self.buffers[s.buffer].dtype
        mask = None if s.mask is None else self.printer.emit(s.mask, scope)
        if mask is not None and not mask.vec:
            inside = scope.inner()
            self._store_where(s, inside, None, dtype)
            scope.block(f"if ({mask.code}) {{", inside)
            return
        self._store_where(s, scope, mask, dtype)

    def _store_where(self, s: Store, scope: Scope, mask: Value | None, dtype: str) -> None:
        lanes = self.printer.emitter(scope)
        value = self.printer.stored(self.printer.emit(s.value, scope), dtype, scope)
        uniform, lane, stride, _ = self.printer.address(s.buffer, s.index, scope)
        name = self.names[s.buffer]
        if s.mode != "set":
            _check_atomic(s, dtype)
        if not (value.vec or lane or stride or mask is not None):
            scope.lines.append(self._one(s, f"{name}[{uniform}]", f"&{name}[{uniform}]", value.code, dtype))
            return
        pointer = name if uniform == "0" else f"{name} + {uniform}"
        value = lanes.splat(value)
        tail = f", {scope.tail}" if scope.tail else ""
        if s.mode == "set" and not lane and stride == 1 and mask is None:
            helper = "stream" if self.schedule.stream and self._aligned(s, dtype) else "store"
            self.printer.preamble.need(f"{helper}_lanes" if tail else helper)
            scope.lines.append(f"{helper}({pointer}, {value.code}{tail});")
            return
        index = lanes.vector("i64")
        if not lane:
            self.printer.preamble.need("iota")
            lane = f"iota<{index}>()" if stride else f"{index}{{}}"
        bits = BITS[value.kind]
        flag = lanes.vector(f"i{bits}")
        condition = lanes.mask(mask, bits).code if mask is not None else f"~{flag}{{}}"
        if tail:
            self.printer.preamble.need("keep")
            condition = f"keep({condition}, {flag}{{}}{tail})"
        helper, functor = _SCATTER[s.mode]
        self.printer.preamble.need(helper)
        if functor:
            self.printer.preamble.need(functor.lower())
        last = f", {functor}{{}}" if functor else ""
        scope.lines.append(f"{helper}({pointer}, {lane}, {value.code}, {condition}{last});")

    def _one(self, s: Store, place: str, pointer: str, value: str, dtype: str) -> str:
        if s.mode == "set":
            return f"{place} = {value};"
        if s.mode == "add":
            self.printer.preamble.need("atomic_add")
            return f"atomic_add({pointer}, ({STORAGE[dtype]}){value});"
        functor = _SCATTER[s.mode][1]
        self.printer.preamble.need("atomic_update")
        self.printer.preamble.need(functor.lower())
        return f"atomic_update({pointer}, ({STORAGE[dtype]}){value}, {functor}{{}});"

    def _aligned(self, s: Store, dtype: str) -> bool:
        """Whether every whole vector of this store is aligned to its size, given an aligned buffer."""
        form = analyse(s.index[0], {})
        size = self.schedule.lanes
        steps = [k for a, k in form.terms.items() if a != self.vector]
        vector_bytes = (
            size * BITS[{"bfloat16": "u16", "float16": "f16", "bool": "u8"}.get(dtype, KIND[dtype])] // 8
        )
        return (
            not form.rest
            and form.constant % size == 0
            and all(k % size == 0 for k in steps)
            and vector_bytes in ((64,) if self.whole_lines else (32, 64))
        )


def _check_atomic(s: Store, dtype: str) -> None:
    if dtype in ("float16", "bfloat16", "bool"):
        raise UnsupportedError(
            f"store with mode '{s.mode}' into {dtype}",
            where=f"buffer {s.buffer}",
            mend="accumulate in a float32 or integer temporary",
        )
