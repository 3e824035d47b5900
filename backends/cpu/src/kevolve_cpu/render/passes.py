"""Splits a nest's statements into passes: loops over the same axes that can run together.

A statement runs in the first pass in which everything it depends on is complete. A reduction is complete
after its pass, so softmax over a row gives three: the maximum, the sum, the stores. Named values (`Let`) are
not statements of a pass: they are computed where they are used.
"""

from __future__ import annotations

from attrs import define, field

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Contract, Let, Load, LoopNest, Reduce, Scan, Search, Store, Var
from kevolve_cpu.render.tidy import expressions, uses

__all__ = ["Pass", "Sink", "passes_of"]

Sink = Reduce | Scan | Store


@define
class Pass:
    """One loop nest inside a task: ``axes`` in the nest's order, the statements it runs, and its scan."""

    axes: tuple[str, ...]
    sinks: list[Sink] = field(factory=list)
    scan: Scan | None = None

    @property
    def reduces(self) -> list[Reduce]:
        return [s for s in self.sinks if isinstance(s, Reduce)]

    @property
    def reduced(self) -> tuple[str, ...]:
        """The axes its reductions run over (the same for all)."""
        return self.reduces[0].axes if self.reduces else ()


@define
class _Level:
    """When a value is there: in pass ``level`` or after it; a scan's value also inside its own pass."""

    level: int
    scan: Scan | None = None


def passes_of(nest: LoopNest, inner: tuple[str, ...], fuse: bool) -> list[Pass]:
    """The passes of ``nest`` in order; ``inner`` are the axes looped inside a task. Without ``fuse`` every
    statement has its own pass."""
    levels: dict[str, _Level] = {}
    written: dict[str, int] = {}
    found: dict[tuple[object, ...], Pass] = {}
    order: list[tuple[int, int, Pass]] = []
    for number, s in enumerate(nest.body):
        level, scan = 0, None
        for e in uses(expressions(s)):
            if isinstance(e, Var):
                dep = levels[e.name]
                level, scan = max(level, dep.level), dep.scan or scan
            elif isinstance(e, Load) and e.buffer in written:
                level = max(level, written[e.buffer] + 1)
        if isinstance(s, Contract):
            raise UnsupportedError("a contraction that was not made a sum first", where=f"value {s.name}")
        if isinstance(s, (Let, Search)):
            levels[s.name] = _Level(level, scan)
            continue
        axes = _axes(nest, s, inner)
        if isinstance(s, Scan):
            if scan is not None:
                level, scan = level + 1, None
        elif scan is not None and (not isinstance(s, Store) or _axes(nest, scan, inner) != axes):
            level, scan = level + 1, None
        if isinstance(s, Store) and s.buffer in written:
            level = max(level, written[s.buffer])
        key = _key(level, axes, s, scan, number, fuse)
        if key not in found:
            found[key] = Pass(axes, scan=s if isinstance(s, Scan) else None)
            order.append((level, number, found[key]))
        found[key].sinks.append(s)
        if isinstance(s, Scan):
            levels[s.name] = _Level(level, s)
        elif isinstance(s, Reduce):
            levels[s.name] = _Level(level + 1)
        else:
            written[s.buffer] = level
    return [p for _, _, p in sorted(order, key=lambda x: x[:2])]


def _axes(nest: LoopNest, s: Sink, inner: tuple[str, ...]) -> tuple[str, ...]:
    spanned = set(nest.span(s))
    if isinstance(s, Reduce):
        spanned |= set(s.axes)
    elif isinstance(s, Scan):
        spanned.add(s.axis)
    return tuple(a for a in inner if a in spanned)


def _key(
    level: int, axes: tuple[str, ...], s: Sink, scan: Scan | None, number: int, fuse: bool
) -> tuple[object, ...]:
    if isinstance(s, Scan):
        return (level, axes, "scan", s.name)
    if scan is not None:
        return (level, axes, "scan", scan.name)
    if not fuse or not axes:
        return (level, axes, number)
    reduced = frozenset(s.axes) if isinstance(s, Reduce) else None
    return (level, axes, reduced)
