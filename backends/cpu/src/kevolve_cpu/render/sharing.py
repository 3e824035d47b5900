"""One C++ function for nests that are alike: a call passes its own buffers, from where it begins in them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from attrs import define, field, frozen

from kevolve_core.ir import Buffer, LoopNest, itemsize
from kevolve_core.synth.alike import Likeness, of_nest, shifts
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.exact import Products
from kevolve_cpu.render.nest import parameters

__all__ = ["Call", "Shared"]

_WIDEST = 64  # bytes of the widest vector: what a store past the caches takes a whole buffer to be aligned to


@frozen
class Call:
    """A function, and the buffers that a call passes: those it reads, then those it writes, and how many
    elements from its beginning each is passed."""

    function: str
    buffers: tuple[str, ...]
    offsets: tuple[int, ...]


@define
class Shared:
    """The functions of one file so far."""

    buffers: Mapping[str, Buffer]
    products: Products
    _known: dict[Hashable, list[tuple[LoopNest, Likeness, str]]] = field(factory=dict)

    def call(self, nest: LoopNest, schedule: Schedule, rows: bool, function: str) -> tuple[Call, bool]:
        """How ``nest`` is called, and whether its function is a new one, called ``function``."""
        own = of_nest(nest, self.buffers)
        key = own.key, self.products.marks(nest), schedule, rows
        for first, known, name in self._known.get(key, ()):
            by = shifts(first, known, own, self.buffers)
            if by is None or (schedule.stream and any(self._bytes(b, n) % _WIDEST for b, n in by.items())):
                continue
            slot = {b: k for k, b in enumerate(known.buffers)}
            taken = [b for side in parameters(first) for b in side]
            offsets = tuple(by.get(b, 0) for b in taken)
            return Call(name, tuple(own.buffers[slot[b]] for b in taken), offsets), False
        self._known.setdefault(key, []).append((nest, own, function))
        used = tuple(b for side in parameters(nest) for b in side)
        return Call(function, used, (0,) * len(used)), True

    def _bytes(self, buffer: str, elements: int) -> int:
        return elements * itemsize(self.buffers[buffer].dtype)
