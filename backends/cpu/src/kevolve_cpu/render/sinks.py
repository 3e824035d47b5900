"""Prints the passes of a task: loops, accumulators, stores, working storage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from attrs import define, field

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, Expr, Let, Load, LoopNest, Reduce, Scan, Search, Store, Var
from kevolve_cpu.render.affine import analyse
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.kinds import BITS, KIND, SCALAR, STORAGE
from kevolve_cpu.render.operators import Value
from kevolve_cpu.render.passes import Pass, Sink
from kevolve_cpu.render.printer import Array, Printer
from kevolve_cpu.render.reduction import Reduction
from kevolve_cpu.render.scope import Scope
from kevolve_cpu.render.tidy import expressions, uses

__all__ = ["Sinks"]

_STACK_BYTES = 128 << 10  # larger working storage comes from the heap; OpenMP threads have 2 MiB stacks
_FOLD = 16384  # elements whose float32 sum goes into a float64 total: error like a pairwise sum; estimated
_SERIAL = 1024  # float32 additions in a row before the accumulator is a float64; estimated
_PARTS = 64  # partial results of a split reduction: fixed, so that sums repeat on any machine; estimated

Refs = list[tuple[str, str, str]]  # (type, name, start value) of the accumulators of a loop


@define
class Sinks:
    """Prints passes for one nest; see `Printer` for the shared state."""

    printer: Printer
    nest: LoopNest
    schedule: Schedule
    vector: str
    bounds: dict[str, tuple[str, str]]
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    next_row: str = ""
    kept: dict[str, Pass] = field(factory=dict)
    kept_arrays: dict[str, Array] = field(factory=dict)
    saved_scans: set[str] = field(factory=set)
    _part: str = ""
    _part_count: int = 0
    _ahead: Pass | None = None

    # ---- what passes need of each other ----

    def needed(self, sink: Sink, stop: frozenset[str] = frozenset()) -> set[str]:
        """Names that ``sink`` depends on, through `Let` and `Search`, not looking inside those in ``stop``."""
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
        lets = [s for s in self.nest.body if isinstance(s, (Let, Search))]
        for let in reversed(lets):
            wanted = [
                p for p in passes
                if any(let.name in self.needed(s, frozenset(k for k, q in self.kept.items() if q is not p)) for s in p.sinks)
            ]  # fmt: skip
            axes = frozenset(self.printer.spans[let.name]) & frozenset(inner)
            heavy = isinstance(let, Search) or any(e.__class__.__name__ == "Op" for e in uses((let.value,)))
            if (
                self.schedule.keep
                and len(wanted) > 1
                and axes
                and axes == frozenset(wanted[0].axes)
                and heavy
            ):
                self.kept[let.name] = wanted[0]
                order = [a for a in inner if a in axes]
                kind = KIND[self.printer.dtype_of(let.name)]
                self.kept_arrays[let.name] = self._array(
                    task, f"{let.name}_kept", kind, order, task.width > 1
                )

    # ---- loops ----

    def run(self, p: Pass, task: Scope, passes: list[Pass], split: bool = False) -> None:
        """Append pass ``p`` to ``task``."""
        lanes_mode = task.width > 1
        vectorised = bool(self.vector) and self.vector in p.axes and not lanes_mode and p.scan is None
        looped = [q for q in passes if self.vector in q.axes]
        self._ahead = looped[0] if self.next_row and len(looped) > 1 and p is looped[-1] else None
        order = [a for a in p.axes if a != self.vector] + [a for a in p.axes if a == self.vector]
        free = [a for a in order if a not in p.reduced]
        if p.scan is not None:
            self._scan(p, task, order)
        elif not p.reduces:
            self._split(task, order, split and bool(order), vectorised, lambda s: self._stores(p, s))
        elif vectorised and self.vector in free:
            self._array_reduce(p, task, order)
        else:
            self._reduce(p, task, free, [a for a in order if a in p.reduced], split, vectorised)
        for name, first in self.kept.items():
            if first is p:
                self.printer.arrays[name] = self.kept_arrays[name]

    def _split(
        self, task: Scope, order: list[str], split: bool, vectorised: bool, body: Callable[[Scope], None]
    ) -> None:
        """Loops over ``order`` around ``body``; with ``split`` in parallel over chunks of the first."""
        if not split:
            self.loops(task, order, vectorised, body)
            return
        chunk = task.inner()
        with_bounds = self._chunk(chunk, order[0], vectorised and order[0] == self.vector)
        self.loops(chunk, order, vectorised, body)
        del self.bounds[order[0]]
        task.lines.append(f"#pragma omp parallel for schedule(static){self._threads()}")
        task.block(with_bounds, chunk)

    def _threads(self) -> str:
        return f" num_threads({self.schedule.threads})" if self.schedule.threads else ""

    def _chunk(self, chunk: Scope, axis: str, vectorised: bool) -> str:
        """Bind ``axis`` to a part of its range; gives the loop's header."""
        extent = self.nest.extent(axis)
        unit = self.schedule.lanes * self.schedule.unroll if vectorised else 1
        parts = max(1, min(_PARTS, extent // unit))
        size = -(-extent // (parts * unit)) * unit
        parts = -(-extent // size)
        name = self.printer.loops[axis]
        lo, hi = self.printer.fresh(f"{name}_first"), self.printer.fresh(f"{name}_last")
        self.bounds[axis] = (lo, hi)
        part = self.printer.fresh("part")
        self._part, self._part_count = part, parts
        chunk.lines.append(f"const long {lo} = {part} * {size};")
        stop = f"{lo} + {size}"
        chunk.lines.append(
            f"const long {hi} = {stop} < {extent} ? {stop} : {extent};"
            if extent % size
            else f"const long {hi} = {stop};"
        )
        return f"for (long {part} = 0; {part} < {parts}; ++{part}) {{"

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
        lo, hi = self.bounds.get(axis, ("0", str(self.nest.extent(axis))))
        v = self.printer.loops[axis]
        scope.block(f"for (long {v} = {lo}; {v} < {hi}; ++{v}) {{", inside)

    def over_vectors(
        self, scope: Scope, axis: str, body: Callable[[Scope], None], unroll: int, refs: Refs | None = None
    ) -> None:
        """A loop over ``axis`` by whole vectors, then the lanes that are left. ``refs`` are accumulators, declared
        by the caller as ``name_0 … name_(unroll-1)``; the body knows them by ``name``."""
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
        unroll = max(1, min(unroll, vectors))
        if not left and not refs and unroll == 1:
            header = f"for (long {v} = {lo or 0}; {v} < {hi or extent}; {v} += {lanes}) {{"
            scope.block(header, inside)
            return
        if left:
            self.printer.preamble.need("lanes")
        scope.block(
            f"const auto {at} = [&]({', '.join(arguments)}) __attribute__((always_inline)) {{", inside, "};"
        )

        def call(where: str, which: str, copy: int) -> str:
            names = [f"{n}_{copy}" for _, n, _ in refs]
            return f"{at}({', '.join([where, *([which] if left else []), *names])});"

        step = lanes * unroll
        steps = [call(v if not u else f"{v} + {u * lanes}", "All{}", u) for u in range(unroll)]
        if lo:
            rest = unroll > 1 or left
            scope.lines.append(f"long {v} = {lo};")
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

    # ---- reductions ----

    def _value_kind(self, e: Expr) -> str:
        return KIND[e.dtype]

    def _reduce(
        self, p: Pass, task: Scope, free: list[str], reduced: list[str], split: bool, vectorised: bool
    ) -> None:
        """Accumulators in registers, for each point of ``free`` (whose results go to working storage)."""
        lanes_mode = task.width > 1
        lanes = self.printer.emitter(task)
        count = math.prod(self.nest.extent(a) for a in reduced)
        arrays: dict[str, Array] = {}
        if free:
            for s in p.reduces:
                arrays[s.name] = self._array(task, s.name, KIND[s.dtype], free, lanes_mode)

        def point(scope: Scope) -> None:
            results = self._accumulate(p, scope, reduced, count, split and not free, vectorised)
            for s in p.reduces:
                if not free:
                    scope.values[s.name] = self.printer.declare(results[s.name], scope, _identifier(s.name))
                    continue
                at = self.printer.element(arrays[s.name])
                scope.lines.append(f"{arrays[s.name].name}[{at}] = {results[s.name].code};")

        self.loops(task, free, False, point)
        del lanes
        self.printer.arrays.update(arrays)

    def _accumulate(
        self, p: Pass, scope: Scope, reduced: list[str], count: int, split: bool, vectorised: bool
    ) -> dict[str, Value]:
        """The reductions of ``p`` over ``reduced`` at one point; gives their values by name."""
        in_vectors = vectorised and self.vector in reduced
        width = self.schedule.lanes if in_vectors else scope.width
        vec = width > 1
        extent = self.nest.extent(self.vector) if in_vectors else 0
        unroll = max(1, min(self.schedule.unroll, extent // width)) if in_vectors else 1
        per_lane = count // (width * unroll) if in_vectors else count
        long_sum = per_lane > _SERIAL
        folding = long_sum and in_vectors and extent // (width * unroll) >= 16
        reductions = {
            s.name: Reduction.of(s, self._value_kind(s.value), wide=long_sum and not folding)
            for s in p.reduces
        }
        emitter = type(self.printer.emitter(scope))(self.printer.preamble, width)
        stems = {n: self.printer.fresh(f"{_identifier(n)}_acc") for n in reductions}
        refs: Refs = []
        for n, r in reductions.items():
            refs += [(ctype, stems[n] + suffix, start) for suffix, ctype, start in r.parts(emitter, vec)]
        copies = [f"_{u}" for u in range(unroll)] if in_vectors else [""]

        def body(inside: Scope) -> None:
            for s in p.sinks:
                if isinstance(s, Store):
                    self.store(s, inside)
                    continue
                if isinstance(s, Scan):
                    continue
                r = reductions[s.name]
                self._take(r, s, inside, [stems[s.name] + x for x, _, _ in r.parts(emitter, vec)], vec)
            self._after(p, inside)

        def declare(where: Scope) -> None:
            for ctype, name, start in refs:
                where.lines.append(f"{ctype} " + ", ".join(f"{name}{c} = {start}" for c in copies) + ";")

        def close(where: Scope, stem_suffix: str = "") -> dict[str, list[str]]:
            """Merge copies and lanes; gives the scalar (or lane) accumulators' names."""
            finished: dict[str, list[str]] = {}
            for n, r in reductions.items():
                names = [stems[n] + x for x, _, _ in r.parts(emitter, vec)]
                gap = 1
                while gap < len(copies):
                    for u in range(0, len(copies) - gap, 2 * gap):
                        where.lines.append(
                            r.merge(
                                [x + copies[u] for x in names], [x + copies[u + gap] for x in names], emitter
                            )
                        )
                    gap *= 2
                names = [x + copies[0] for x in names]
                if in_vectors:
                    total = self.printer.fresh(f"{_identifier(n)}_all{stem_suffix}")
                    where.lines += r.across(names, total, emitter, r.kind)
                    names = [total, *([f"{total}_at"] if r.positional else [])]
                finished[n] = names
            return finished

        if split and reduced:
            return self._partial(
                p, scope, reduced, reductions, emitter, declare, body, close, in_vectors, refs
            )
        if folding:
            return self._folded(scope, reduced, reductions, emitter, declare, body, close, refs)
        declare(scope)
        self.loops(scope, reduced, in_vectors, body, refs if in_vectors else None)
        done = close(scope)
        lane_result = vec and not in_vectors
        return {n: r.result(done[n], lane_result, emitter) for n, r in reductions.items()}

    def _total(
        self, scope: Scope, reductions: Mapping[str, Reduction]
    ) -> dict[str, tuple[Reduction, list[str]]]:
        """Scalar accumulators over partial results; float32 sums go on in float64."""
        totals: dict[str, tuple[Reduction, list[str]]] = {}
        for n, r in reductions.items():
            wide = Reduction.of(r.statement, r.kind, wide=True)
            stem = self.printer.fresh(f"{_identifier(n)}_total")
            names = []
            for suffix, ctype, start in wide.parts(self.printer.emitter(scope), False):
                scope.lines.append(f"{ctype} {stem}{suffix} = {start};")
                names.append(stem + suffix)
            totals[n] = (wide, names)
        return totals

    def _folded(self, scope, reduced, reductions, emitter, declare, body, close, refs):  # type: ignore[no-untyped-def]
        totals = self._total(scope, reductions)
        inside = scope
        opened: list[tuple[Scope, str, Scope]] = []
        for a in reduced[:-1]:
            deeper = inside.inner(a)
            lo, hi = self.bounds.get(a, ("0", str(self.nest.extent(a))))
            v = self.printer.loops[a]
            opened.append((inside, f"for (long {v} = {lo}; {v} < {hi}; ++{v}) {{", deeper))
            inside = deeper
        axis = reduced[-1]
        v, extent = self.printer.loops[axis], self.nest.extent(axis)
        outer_bounds = self.bounds.get(axis)
        low, high = outer_bounds or ("0", str(extent))
        if extent > 2 * _FOLD:
            deeper = inside.inner()
            lo, hi = self.printer.fresh(f"{v}_block"), self.printer.fresh(f"{v}_end")
            deeper.lines.append(f"const long {hi} = {lo} + {_FOLD} < {high} ? {lo} + {_FOLD} : {high};")
            opened.append((inside, f"for (long {lo} = {low}; {lo} < {high}; {lo} += {_FOLD}) {{", deeper))
            self.bounds[axis] = (lo, hi)
            inside = deeper
        declare(inside)
        self.loops(inside, [axis], True, body, refs)
        done = close(inside)
        for n, (wide, names) in totals.items():
            inside.lines.append(wide.merge(names, self._cast(wide, done[n]), emitter))
        for outside, header, deeper in reversed(opened):
            outside.block(header, deeper)
        if outer_bounds:
            self.bounds[axis] = outer_bounds
        else:
            self.bounds.pop(axis, None)
        plain = self.printer.emitter(scope)
        return {n: wide.result(names, False, plain) for n, (wide, names) in totals.items()}

    @staticmethod
    def _cast(r: Reduction, names: list[str]) -> list[str]:
        return [f"({SCALAR[r.kind]}){names[0]}", *names[1:]]

    def _partial(self, p, scope, reduced, reductions, emitter, declare, body, close, in_vectors, refs):  # type: ignore[no-untyped-def]
        """Every chunk's result goes to an array; they are combined in order afterwards."""
        chunk = scope.inner()
        header = self._chunk(chunk, reduced[0], in_vectors and reduced[0] == self.vector)
        part, parts = self._part, self._part_count
        totals = self._total(scope, reductions)
        declare(chunk)
        self.loops(chunk, reduced, in_vectors, body, refs if in_vectors else None)
        done = close(chunk)
        arrays: dict[str, list[str]] = {}
        for n, (wide, _) in totals.items():
            types = [SCALAR[wide.kind], *(["long"] if wide.positional else [])]
            arrays[n] = []
            for t, name in zip(types, self._cast(wide, done[n]), strict=True):
                array = self.printer.fresh(f"{_identifier(n)}_part")
                scope.lines.append(f"{t} {array}[{parts}];")
                chunk.lines.append(f"{array}[{part}] = {name};")
                arrays[n].append(array)
        del self.bounds[reduced[0]]
        scope.lines.append(f"#pragma omp parallel for schedule(static){self._threads()}")
        scope.block(header, chunk)
        merge = scope.inner()
        for n, (wide, names) in totals.items():
            merge.lines.append(wide.merge(names, [f"{a}[{part}]" for a in arrays[n]], emitter))
        scope.block(header, merge)
        plain = self.printer.emitter(scope)
        return {n: wide.result(names, False, plain) for n, (wide, names) in totals.items()}

    def _take(self, r: Reduction, s: Reduce | Scan, scope: Scope, names: list[str], vec: bool) -> None:
        """Add the value of ``s`` at this point to accumulators ``names``."""
        lanes = self.printer.emitter(scope)
        value = r.prepared(self.printer.emit(s.value, scope), lanes)
        if vec:
            value = lanes.splat(value)
            if scope.tail and self.vector in getattr(s, "axes", ()):
                lanes.preamble.need("keep")
                if value.code.isidentifier() is False:
                    value = self.printer.declare(value, scope, "t")
                identity = r.parts(lanes, True)[0][2]
                text = f"keep({value.code}, {identity}, {scope.tail})"
                value = Value(text, value.kind, True)
        position = self._position(r, s, lanes, vec) if r.positional and isinstance(s, Reduce) else ""
        scope.lines.append(r.take(names, value.code, position, lanes))

    def _position(self, r: Reduction, s: Reduce, lanes, vec: bool) -> str:  # type: ignore[no-untyped-def]
        """The flattened position along the reduced axes."""
        terms, step, lane = [], 1, 0
        for a in reversed(s.axes):
            loop = self.printer.loops[a]
            terms.append(loop if step == 1 else f"{loop} * {step}")
            lane = step if a == self.vector else lane
            step *= self.nest.extent(a)
        base = " + ".join(reversed(terms))
        if not vec:
            return f"long({base})"
        place = f"i{BITS[r.kind]}"
        if place == "i32" and step >= 2**31:
            raise UnsupportedError(
                f"{s.combiner} over 2^31 or more points in int32 lanes", where=f"value {s.name}"
            )
        text = lanes.splat(Value(f"({SCALAR[place]})({base})", place)).code
        if lane:
            lanes.preamble.need("iota")
            text += f" + iota<{lanes.vector(place)}>()" + (f" * {lane}" if lane != 1 else "")
        return text

    def _array_reduce(self, p: Pass, task: Scope, order: list[str]) -> None:
        """Results span the vector axis: the reduced axes are looped outside it and accumulators lie in working
        storage, so that memory is read in order."""
        free = [a for a in order if a not in p.reduced]
        count = math.prod(self.nest.extent(a) for a in p.reduced)
        lanes = type(self.printer.emitter(task))(self.printer.preamble, self.schedule.lanes)
        stores: dict[str, tuple[Reduction, list[Array]]] = {}
        for s in p.reduces:
            r = Reduction.of(s, self._value_kind(s.value), wide=count > _SERIAL)
            kinds = [r.kind, *([f"i{BITS[r.kind]}"] if r.positional else [])]
            arrays = [self._array(task, f"{s.name}_acc", k, free, False) for k in kinds]
            for a, start in zip(arrays, [r.identity, "0"], strict=False):
                size = self._size(free)
                task.lines.append(f"for (long i = 0; i < {size}; ++i) {a.name}[i] = {start};")
            stores[s.name] = (r, arrays)

        def body(scope: Scope) -> None:
            for s in p.reduces:
                r, arrays = stores[s.name]
                names = []
                for a in arrays:
                    name = self.printer.fresh(_identifier(s.name))
                    self.printer.preamble.need("load")
                    vector = lanes.vector(a.kind)
                    scope.lines.append(
                        f"{vector} {name} = load<{vector}>({a.name} + {self.printer.element(a)});"
                    )
                    names.append(name)
                self._take(r, s, scope, names, True)
                self.printer.preamble.need("store")
                for a, name in zip(arrays, names, strict=True):
                    scope.lines.append(f"store({a.name} + {self.printer.element(a)}, {name});")
            for s in p.sinks:
                if isinstance(s, Store):
                    self.store(s, scope)
            self._after(p, scope)

        loops = [a for a in free if a != self.vector] + [a for a in order if a in p.reduced] + [self.vector]
        self.loops(task, loops, True, body)
        for s in p.reduces:
            r, arrays = stores[s.name]
            last = arrays[-1]
            self.printer.arrays[s.name] = Array(last.name, last.kind, last.strides, KIND[s.dtype])

    def _size(self, axes: list[str]) -> int:
        n = 1
        for a in axes:
            n *= self._length(a)
        return n

    def _length(self, axis: str) -> int:
        """Elements of working storage along ``axis``: the tile's, rounded up to whole vectors."""
        extent = self.nest.extent(axis)
        if axis != self.vector:
            return extent
        if axis in self.bounds and self.schedule.tile:
            extent = min(extent, self.schedule.tile)
        return -(-extent // self.schedule.lanes) * self.schedule.lanes

    def _array(self, scope: Scope, name: str, kind: str, axes: list[str], vec: bool) -> Array:
        """Declare working storage over ``axes`` (of whole vectors where ``vec``)."""
        axes = [a for a in axes if a != self.vector] + [a for a in axes if a == self.vector]
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
        variable = self.printer.fresh(_identifier(name))
        if step * width * BITS[stored] // 8 > _STACK_BYTES:
            self.printer.preamble.need("scratch")
            scope.lines.append(f"const Scratch<{ctype}> {variable}({step});")
        else:
            scope.lines.append(f"alignas(64) {ctype} {variable}[{step}];")
        return Array(variable, kind, strides, kind, vec)

    # ---- scans ----

    def _scan(self, p: Pass, task: Scope, order: list[str]) -> None:
        """A running combination, one point after another (lanes are independent rows, if anything)."""
        s = p.scan
        assert s is not None
        if s.combiner.startswith("arg"):
            raise UnsupportedError(
                f"scan with {s.combiner}", where=f"value {s.name}", mend="lower it to max or min"
            )
        others = [a for a in order if a != s.axis]
        saved = (
            self._array(task, s.name, KIND[s.dtype], order, task.width > 1)
            if s.name in self.saved_scans
            else None
        )
        r = Reduction.of(s, self._value_kind(s.value))
        vec = task.width > 1

        def row(scope: Scope) -> None:
            lanes = self.printer.emitter(scope)
            stem = self.printer.fresh(f"{_identifier(s.name)}_run")
            ctype, start = r.parts(lanes, vec)[0][1:]
            scope.lines.append(f"{ctype} {stem} = {start};")
            inside = scope.inner(s.axis)
            take = [stem]
            if s.exclusive:
                before = self.printer.declare(r.result(take, vec, lanes), inside, _identifier(s.name))
                self._take(r, s, inside, take, vec)
                inside.values[s.name] = before
            else:
                self._take(r, s, inside, take, vec)
                inside.values[s.name] = self.printer.declare(
                    r.result(take, vec, lanes), inside, _identifier(s.name)
                )
            if saved is not None:
                self._save(saved, inside.values[s.name], inside)
            for sink in p.sinks:
                if isinstance(sink, Store):
                    self.store(sink, inside)
            self._after(p, inside)
            v, n = self.printer.loops[s.axis], self.nest.extent(s.axis)
            header = (
                f"for (long {v} = {n - 1}; {v} >= 0; --{v}) {{"
                if s.reverse
                else f"for (long {v} = 0; {v} < {n}; ++{v}) {{"
            )
            scope.block(header, inside)

        self.loops(task, others, False, row)
        if saved is not None:
            self.printer.arrays[s.name] = saved

    # ---- stores and kept values ----

    def _stores(self, p: Pass, scope: Scope) -> None:
        for s in p.sinks:
            if isinstance(s, Store):
                self.store(s, scope)
        self._after(p, scope)

    def _after(self, p: Pass, scope: Scope) -> None:
        """At the end of a point: keep what later passes need, and fetch what the next task reads first."""
        for name, first in self.kept.items():
            if first is p:
                array = self.kept_arrays[name]
                value = self.printer.emit(Var(name, self.printer.dtype_of(name)), scope)
                self._save(array, value, scope)
        if self._ahead is not None:
            self._prefetch(scope)

    def _save(self, array: Array, value: Value, scope: Scope) -> None:
        at = self.printer.element(array)
        lanes = self.printer.emitter(scope)
        if array.vec or self.vector not in array.strides or scope.width == 1:
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

    def _prefetch(self, scope: Scope) -> None:
        assert self._ahead is not None
        seen: set[str] = set()
        stop = frozenset(self.kept)
        for s in self._ahead.sinks:
            roots = list(expressions(s))
            roots += [
                self.printer.definitions[n] for n in self.needed(s, stop) if n in self.printer.definitions
            ]
            for e in uses(tuple(roots)):
                if not isinstance(e, Load):
                    continue
                form = analyse(e.index[0], {})
                if form.rest or form.stride(self.vector) != 1 or not form.stride(self.next_row):
                    continue
                if not set(form.terms) <= scope.bound:
                    continue
                terms = [
                    (f"({self.printer.loops[a]} + 1)" if a == self.next_row else self.printer.loops[a])
                    + (f" * {k}" if k != 1 else "")
                    for a, k in form.terms.items()
                ]
                text = f"__builtin_prefetch({self.names[e.buffer]} + {' + '.join(terms)});"
                if text not in seen:
                    seen.add(text)
                    scope.lines.append(text)

    def store(self, s: Store, scope: Scope) -> None:
        """``buffer[index] = value`` at this point, or for the lanes of a vector."""
        lanes = self.printer.emitter(scope)
        dtype = self.buffers[s.buffer].dtype
        mask = None if s.mask is None else self.printer.emit(s.mask, scope)
        if mask is not None and not mask.vec:
            inside = scope.inner()
            self._store_where(s, inside, None, dtype)
            scope.block(f"if ({mask.code}) {{", inside)
            return
        del lanes
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
            and vector_bytes in (32, 64)
        )


_SCATTER = {
    "set": ("scatter", ""),
    "add": ("scatter_add", ""),
    "max": ("scatter_update", "Larger"),
    "min": ("scatter_update", "Smaller"),
}


def _check_atomic(s: Store, dtype: str) -> None:
    if dtype in ("float16", "bfloat16", "bool"):
        raise UnsupportedError(
            f"store with mode '{s.mode}' into {dtype}",
            where=f"buffer {s.buffer}",
            mend="accumulate in a float32 or integer temporary",
        )


def _identifier(name: str) -> str:
    clean = "".join(c if c.isalnum() else "_" for c in name)
    return clean if clean and not clean[0].isdigit() else f"v{clean}"
