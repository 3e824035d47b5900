"""Prints the passes of a task: what runs in which loop, and what is kept from one pass to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import define, field

from kevolve_core.ir import Expr, Let, Load, Op, Search, Store, Var, axes_of, vars_of
from kevolve_core.languages.rounding import few_results
from kevolve_cpu.render.accumulate import SERIAL, Accumulators
from kevolve_cpu.render.affine import analyse
from kevolve_cpu.render.kinds import BITS, KIND
from kevolve_cpu.render.loops import Loops
from kevolve_cpu.render.online import online_of, online_passes
from kevolve_cpu.render.operators import Lanes
from kevolve_cpu.render.passes import Pass, Sink
from kevolve_cpu.render.printer import Array, Printer, identifier
from kevolve_cpu.render.reduction import Reduction
from kevolve_cpu.render.rescaled import RescaledSum
from kevolve_cpu.render.scans import Scans, in_vectors
from kevolve_cpu.render.scope import Scope
from kevolve_cpu.render.storage import Storage
from kevolve_cpu.render.stores import Stores
from kevolve_cpu.render.tidy import CHEAP, expressions, uses

__all__ = ["Sinks"]

#: elements ahead of the current ones that a `far` prefetch fetches: 16 KiB of float32. Rows of 32,000 took
#: 16.5 ms for their sums of exponentials with 2048 or 4096, 17.6 with 8192 and 26.1 with no prefetch (one
#: thread of a Xeon with a 48 KiB L1 cache).
_AHEAD = 4096


@define
class Sinks:
    """Prints the passes of one nest. ``next_row`` is the axis along which the next task lies, where its first
    reads are to be fetched ahead, else ""."""

    loops: Loops
    stores: Stores
    names: Mapping[str, str]
    next_row: str = ""
    kept: dict[str, Pass] = field(factory=dict)
    kept_arrays: dict[str, Array] = field(factory=dict)
    saved_scans: set[str] = field(factory=set)
    ahead: Pass | None = None
    online: tuple[Pass, Pass] | None = None
    storage: Storage = field(init=False)
    accumulators: Accumulators = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.storage = Storage(self.loops)
        self.accumulators = Accumulators(self.loops)

    @property
    def printer(self) -> Printer:
        return self.loops.printer

    @property
    def vector(self) -> str:
        return self.loops.vector

    def needed(self, sink: Sink, stop: frozenset[str] = frozenset()) -> set[str]:
        """Names that ``sink`` depends on, through `Let` and `Search`, not looking inside those in
        ``stop``."""
        found: set[str] = set()
        stack = list(expressions(sink))
        while stack:
            for e in uses((stack.pop(),)):
                if isinstance(e, Var) and e.name not in found:
                    found.add(e.name)
                    if e.name in stop:
                        continue
                    if e.name in self.printer.definitions:
                        stack.append(self.printer.definitions[e.name])
                    elif e.name in self.printer.searches:
                        stack.extend(expressions(self.printer.searches[e.name]))
        return found

    def plan(self, task: Scope, passes: list[Pass], inner: tuple[str, ...]) -> None:
        """Find the scans that another pass reads and, where the schedule says so, the values to keep."""
        for p in passes:
            if p.scan is not None:
                others = [s for q in passes if q is not p for s in q.sinks]
                if any(p.scan.name in self.needed(s) for s in others):
                    self.saved_scans.add(p.scan.name)
        schedule = self.loops.schedule
        if schedule.online and schedule.parallel != "inner" and task.width == 1 and schedule.lanes > 1:
            found = online_passes(self.loops.nest, passes)
            self.online = found if found is not None and found[0].axes == (self.vector,) else None
        lets = [s for s in self.loops.nest.body if isinstance(s, (Let, Search))]
        for let in reversed(lets if self.online is None else []):
            wanted = [
                p for p in passes
                if any(let.name in self.needed(s, frozenset(k for k, q in self.kept.items() if q is not
                p)) for s in p.sinks)
            ]  # fmt: skip
            axes = frozenset(self.printer.spans[let.name]) & frozenset(inner)
            heavy = isinstance(let, Search) or any(isinstance(e, Op) for e in uses((let.value,)))
            if (
                self.loops.schedule.keep
                and len(wanted) > 1
                and axes
                and axes == frozenset(wanted[0].axes)
                and heavy
            ):
                self.kept[let.name] = wanted[0]
                order = [a for a in inner if a in axes]
                kind = KIND[self.printer.dtype_of(let.name)]
                self.kept_arrays[let.name] = self.storage.array(
                    task, f"{let.name}_kept", kind, order, task.width > 1
                )

    def run(self, p: Pass, task: Scope, passes: list[Pass], split: bool = False) -> None:
        """Append pass ``p`` to ``task``."""
        if self.online is not None and p in self.online:
            if p is self.online[0]:
                self._rescaled(task)
            return
        lanes_mode = task.width > 1
        vectorised = bool(self.vector) and self.vector in p.axes and not lanes_mode and p.scan is None
        looped = [q for q in passes if self.vector in q.axes]
        scanned = p.scan is not None and not lanes_mode and in_vectors(p.scan, self.vector)
        several = len(looped) > 1 or scanned
        fetching = several and self.online is None and p is self._fetching(looped)
        self.ahead = looped[0] if fetching and (self.next_row or self._far) else None
        order = [a for a in p.axes if a != self.vector] + [a for a in p.axes if a == self.vector]
        free = [a for a in order if a not in p.reduced]
        if p.scan is not None:
            self._scans(p).run(p.scan, task, order, p.scan.name in self.saved_scans)
        elif not p.reduces:
            self.loops.split(task, order, split and bool(order), vectorised, lambda s: self._stores(p, s))
        elif vectorised and self.vector in free:
            self._array_reduce(p, task, order)
        else:
            self._reduce(p, task, free, [a for a in order if a in p.reduced], split, vectorised)
        for name, first in self.kept.items():
            if first is p:
                self.printer.arrays[name] = self.kept_arrays[name]

    def _scans(self, p: Pass) -> Scans:
        return Scans(self.accumulators, self.storage, lambda scope: self._stores(p, scope))

    def _rescaled(self, task: Scope) -> None:
        """A maximum and the sum of exponentials below it, in one pass."""
        pair = online_of(self.loops.nest)
        assert pair is not None  # the plan found its passes
        assert self.online is not None
        self.ahead = self.online[0] if self.next_row or self._far else None
        RescaledSum(self.accumulators).run(pair, task, self.loops.schedule.online, self._prefetch)
        self.ahead = None

    def _reduce(
        self, p: Pass, task: Scope, free: list[str], reduced: list[str], split: bool, vectorised: bool
    ) -> None:
        """Accumulators in registers, for each point of ``free`` (whose results go to working storage)."""
        count = math.prod(self.loops.nest.extent(a) for a in reduced)
        arrays: dict[str, Array] = {}
        if free:
            for s in p.reduces:
                arrays[s.name] = self.storage.array(task, s.name, KIND[s.dtype], free, task.width > 1)

        def point(scope: Scope) -> None:
            results = self.accumulators.run(
                p.reduces, lambda inside: self._stores(p, inside), scope, reduced, count,
                split and not free, vectorised,
            )  # fmt: skip
            for s in p.reduces:
                if not free:
                    scope.values[s.name] = self.printer.declare(results[s.name], scope, identifier(s.name))
                    continue
                at = self.printer.element(arrays[s.name])
                scope.lines.append(f"{arrays[s.name].name}[{at}] = {results[s.name].code};")

        self.loops.loops(task, free, False, point)
        self.printer.arrays.update(arrays)

    def _array_reduce(self, p: Pass, task: Scope, order: list[str]) -> None:
        """Results span the vector axis: the reduced axes are looped outside it and accumulators lie in
        working storage, so that memory is read in order."""
        free = [a for a in order if a not in p.reduced]
        count = math.prod(self.loops.nest.extent(a) for a in p.reduced)
        few = few_results(count, math.prod(a.extent for a in self.loops.nest.axes) // max(1, count))
        lanes = Lanes(self.printer.preamble, self.loops.schedule.lanes)
        stores: dict[str, tuple[Reduction, list[Array]]] = {}
        for s in p.reduces:
            r = Reduction.of(s, KIND[s.value.dtype], few or count > SERIAL, few)
            kinds = [r.kind, *([f"i{BITS[r.kind]}"] if r.positional else [])]
            arrays = [self.storage.array(task, f"{s.name}_acc", k, free, False) for k in kinds]
            for a, start in zip(arrays, [r.identity, "0"], strict=False):
                size = self.storage.size(free)
                task.lines.append(f"for (long i = 0; i < {size}; ++i) {a.name}[i] = {start};")
            stores[s.name] = (r, arrays)

        def body(scope: Scope) -> None:
            for s in p.reduces:
                r, arrays = stores[s.name]
                names = []
                for a in arrays:
                    name = self.printer.fresh(identifier(s.name))
                    self.printer.preamble.need("load")
                    vector = lanes.vector(a.kind)
                    scope.lines.append(
                        f"{vector} {name} = load<{vector}>({a.name} + {self.printer.element(a)});"
                    )
                    names.append(name)
                self.accumulators.take(r, s, scope, names, True)
                self.printer.preamble.need("store")
                for a, name in zip(arrays, names, strict=True):
                    scope.lines.append(f"store({a.name} + {self.printer.element(a)}, {name});")
            self._stores(p, scope)

        loops = [a for a in free if a != self.vector] + [a for a in order if a in p.reduced] + [self.vector]
        self.loops.loops(task, loops, True, body)
        for s in p.reduces:
            r, arrays = stores[s.name]
            last = arrays[-1]
            self.printer.arrays[s.name] = Array(last.name, last.kind, last.strides, KIND[s.dtype])

    def _stores(self, p: Pass, scope: Scope) -> None:
        """The stores of ``p`` at one point, and what follows them."""
        for s in p.sinks:
            if isinstance(s, Store):
                self.stores.store(s, scope)
        self._after(p, scope)

    def _after(self, p: Pass, scope: Scope) -> None:
        """At the end of a point: keep what later passes need, and fetch what the next task reads first."""
        for name, first in self.kept.items():
            if first is p:
                array = self.kept_arrays[name]
                value = self.printer.emit(Var(name, self.printer.dtype_of(name)), scope)
                self.storage.save(array, value, scope)
        self._prefetch(scope)

    def _fetching(self, looped: list[Pass]) -> Pass:
        """The pass in which to fetch what the next task reads first. Stores fill the memory system by
        themselves, so a pass that computes costly values leaves more room; the first pass has none."""
        if len(looped) == 1 or self.loops.schedule.prefetch in ("none", "last"):
            return looped[-1]
        return max(reversed(looped[1:]), key=self._costly)

    def _costly(self, p: Pass) -> int:
        """Weight of the costly operators that pass ``p`` computes at a point, values kept by earlier ones not
        counted. A division, often by one number, weighs less than a function (estimated)."""
        stop = frozenset(name for name, first in self.kept.items() if first is not p)
        roots: list[Expr] = []
        for s in p.sinks:
            roots += expressions(s)
            roots += [
                self.printer.definitions[n]
                for n in self.needed(s, stop)
                if n in self.printer.definitions and n not in stop
            ]
        spans = self.printer.spans
        return sum(
            1 if e.name == "div" else 4
            for e in uses(tuple(roots))
            if isinstance(e, Op)
            and e.name not in CHEAP
            and (self.vector in axes_of(e) or any(self.vector in spans[v] for v in vars_of(e)))
        )

    @property
    def _far(self) -> bool:
        return self.loops.schedule.prefetch == "far"

    def _prefetch(self, scope: Scope) -> None:
        if self.ahead is None:
            return
        seen: set[str] = set()
        stop = frozenset(self.kept)
        for s in self.ahead.sinks:
            roots = list(expressions(s))
            roots += [
                self.printer.definitions[n] for n in self.needed(s, stop) if n in self.printer.definitions
            ]
            for e in uses(tuple(roots)):
                if not isinstance(e, Load):
                    continue
                form = analyse(e.index[0], {})
                if (
                    form.rest
                    or form.stride(self.vector) != 1
                    or (self.next_row and not form.stride(self.next_row))
                ):
                    continue
                if not set(form.terms) <= scope.bound:
                    continue
                terms = [
                    (
                        f"({self.printer.loops[a]} + 1)"
                        if a == self.next_row and not self._far
                        else self.printer.loops[a]
                    )
                    + (f" * {k}" if k != 1 else "")
                    for a, k in form.terms.items()
                ]
                terms += [str(_AHEAD)] if self._far else []
                text = f"__builtin_prefetch({self.names[e.buffer]} + {' + '.join(terms)});"
                if text not in seen:
                    seen.add(text)
                    scope.lines.append(text)
