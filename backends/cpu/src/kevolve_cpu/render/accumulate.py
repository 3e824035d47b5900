"""Prints reductions into registers: accumulators, long sums in blocks, partial results of a split loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from attrs import define

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Reduce, Scan
from kevolve_core.languages.rounding import few_results
from kevolve_cpu.render.kinds import BITS, KIND, SCALAR
from kevolve_cpu.render.loops import Loops, Refs
from kevolve_cpu.render.operators import Lanes, Value
from kevolve_cpu.render.printer import Printer, identifier
from kevolve_cpu.render.reduction import Reduction
from kevolve_cpu.render.scope import Scope

__all__ = ["SERIAL", "Accumulation", "Accumulators"]

#: float32 additions in a row into one accumulator before its sum goes on in float64. A sum of mostly small
#: and a few large terms loses the small ones against a large partial sum: on a group norm of 1 % non-zero
#: inputs the error was 12 times PyTorch's with 640 additions in a row, 2.4 times with 64 and 1.2 times
#: with 16 (PyTorch sums in chunks of 16).
SERIAL = 32
_FOLD = 1024  # elements a block of a folded sum: 16 additions each at 16 lanes and 4 accumulators


@define
class Accumulation:
    """The accumulators of reductions that share a loop.

    Args:
        reductions: by name of the value.
        stems: name of the value -> stem of its accumulators' names.
        lanes: printer for their width.
        vec: whether they are vectors.
        copies: suffixes of the copies that an unrolled loop uses; [""] where there is one.
    """

    reductions: Mapping[str, Reduction]
    stems: Mapping[str, str]
    lanes: Lanes
    vec: bool
    copies: Sequence[str]

    @property
    def refs(self) -> Refs:
        """(type, name without the copy's suffix, start value) of every accumulator."""
        return [
            (ctype, self.stems[n] + suffix, start)
            for n, r in self.reductions.items()
            for suffix, ctype, start in r.parts(self.lanes, self.vec)
        ]

    def names(self, value: str) -> list[str]:
        """The accumulators of ``value`` as the loop's body knows them."""
        return [self.stems[value] + x for x, _, _ in self.reductions[value].parts(self.lanes, self.vec)]

    def declare(self, scope: Scope) -> None:
        for ctype, name, start in self.refs:
            scope.lines.append(f"{ctype} " + ", ".join(f"{name}{c} = {start}" for c in self.copies) + ";")

    def close(self, scope: Scope, across: bool, printer: Printer) -> dict[str, list[str]]:
        """Merge the copies and, with ``across``, the lanes; gives what holds each result."""
        finished: dict[str, list[str]] = {}
        for n, r in self.reductions.items():
            names = self.names(n)
            gap = 1
            while gap < len(self.copies):
                for u in range(0, len(self.copies) - gap, 2 * gap):
                    into = [x + self.copies[u] for x in names]
                    scope.lines.append(r.merge(into, [x + self.copies[u + gap] for x in names], self.lanes))
                gap *= 2
            names = [x + self.copies[0] for x in names]
            if across:
                total = printer.fresh(f"{identifier(n)}_all")
                scope.lines += r.across(names, total, self.lanes, r.kind)
                names = [total, *([f"{total}_at"] if r.positional else [])]
            finished[n] = names
        return finished


@define
class Accumulators:
    """Prints the reductions of one pass at one point of the axes they do not reduce over."""

    loops: Loops

    @property
    def printer(self) -> Printer:
        return self.loops.printer

    def run(
        self,
        reduces: Sequence[Reduce],
        others: Callable[[Scope], None],
        scope: Scope,
        reduced: list[str],
        count: int,
        split: bool,
        vectorised: bool,
    ) -> dict[str, Value]:
        """Loops over ``reduced`` (``count`` points) in ``scope``; ``others`` prints what else runs at
        every point. Gives the values by name."""
        loops = self.loops
        schedule, vector = loops.schedule, loops.vector
        in_vectors = vectorised and vector in reduced
        width = schedule.lanes if in_vectors else scope.width
        extent = loops.nest.extent(vector) if in_vectors else 0
        unroll = max(1, min(schedule.unroll, extent // width)) if in_vectors else 1
        per_lane = count // (width * unroll) if in_vectors else count
        long_sum = per_lane > SERIAL
        folding = long_sum and in_vectors and extent // (width * unroll) >= 16
        results = math.prod(a.extent for a in loops.nest.outer_axes)
        few = few_results(count, results)
        wide = (long_sum or few) and not folding
        reductions = {s.name: Reduction.of(s, KIND[s.value.dtype], wide, few) for s in reduces}
        group = Accumulation(
            reductions,
            {n: self.printer.fresh(f"{identifier(n)}_acc") for n in reductions},
            Lanes(self.printer.preamble, width),
            width > 1,
            [f"_{u}" for u in range(unroll)] if in_vectors else [""],
        )

        def body(inside: Scope) -> None:
            for s in reduces:
                self.take(reductions[s.name], s, inside, group.names(s.name), group.vec)
            others(inside)

        if split and reduced:
            return self._partial(scope, reduced, group, body, in_vectors)
        if folding:
            return self._folded(scope, reduced, group, body)
        group.declare(scope)
        loops.loops(scope, reduced, in_vectors, body, group.refs if in_vectors else None)
        done = group.close(scope, in_vectors, self.printer)
        lane_result = group.vec and not in_vectors
        return {n: r.result(done[n], lane_result, group.lanes) for n, r in reductions.items()}

    def _total(
        self, scope: Scope, reductions: Mapping[str, Reduction]
    ) -> dict[str, tuple[Reduction, list[str]]]:
        """Scalar accumulators over partial results; float32 sums go on in float64."""
        totals: dict[str, tuple[Reduction, list[str]]] = {}
        for n, r in reductions.items():
            wide = Reduction.of(r.statement, r.kind, wide=True)
            stem = self.printer.fresh(f"{identifier(n)}_total")
            names = []
            for suffix, ctype, start in wide.parts(self.printer.emitter(scope), False):
                scope.lines.append(f"{ctype} {stem}{suffix} = {start};")
                names.append(stem + suffix)
            totals[n] = (wide, names)
        return totals

    def _folded(
        self, scope: Scope, reduced: list[str], group: Accumulation, body: Callable[[Scope], None]
    ) -> dict[str, Value]:
        """A long sum in blocks: vectors of float32 within a block, a float64 over the blocks."""
        loops = self.loops
        totals = self._total(scope, group.reductions)
        inside = scope
        opened: list[tuple[Scope, str, Scope]] = []
        for a in reduced[:-1]:
            deeper = inside.inner(a)
            low, high = loops.range(a)
            v = self.printer.loops[a]
            opened.append((inside, f"for (long {v} = {low}; {v} < {high}; ++{v}) {{", deeper))
            inside = deeper
        axis = reduced[-1]
        outside_bounds = loops.bounds.get(axis)
        if loops.nest.extent(axis) > 2 * _FOLD:
            low, high = loops.range(axis)
            deeper = inside.inner()
            v = self.printer.loops[axis]
            first, last = self.printer.fresh(f"{v}_block"), self.printer.fresh(f"{v}_end")
            stop = f"{first} + {_FOLD}"
            deeper.lines.append(f"const long {last} = {stop} < {high} ? {stop} : {high};")
            opened.append(
                (inside, f"for (long {first} = {low}; {first} < {high}; {first} += {_FOLD}) {{", deeper)
            )
            loops.bounds[axis] = (first, last)
            inside = deeper
        group.declare(inside)
        loops.loops(inside, [axis], True, body, group.refs)
        done = group.close(inside, True, self.printer)
        for n, (wide, names) in totals.items():
            inside.lines.append(wide.merge(names, _cast(wide, done[n]), group.lanes))
        for outside, header, deeper in reversed(opened):
            outside.block(header, deeper)
        loops.bounds.pop(axis, None)
        if outside_bounds:
            loops.bounds[axis] = outside_bounds
        plain = self.printer.emitter(scope)
        return {n: wide.result(names, False, plain) for n, (wide, names) in totals.items()}

    def _partial(
        self,
        scope: Scope,
        reduced: list[str],
        group: Accumulation,
        body: Callable[[Scope], None],
        in_vectors: bool,
    ) -> dict[str, Value]:
        """A loop split among threads: every chunk's result goes to an array; they are combined in order."""
        loops = self.loops
        chunk = scope.inner()
        chunks = loops.chunk(chunk, reduced[0], in_vectors and reduced[0] == loops.vector)
        totals = self._total(scope, group.reductions)
        group.declare(chunk)
        loops.loops(chunk, reduced, in_vectors, body, group.refs if in_vectors else None)
        done = group.close(chunk, in_vectors, self.printer)
        del loops.bounds[reduced[0]]
        arrays: dict[str, list[str]] = {}
        for n, (wide, _) in totals.items():
            types = [SCALAR[wide.kind], *(["long"] if wide.positional else [])]
            arrays[n] = []
            for t, name in zip(types, _cast(wide, done[n]), strict=True):
                array = self.printer.fresh(f"{identifier(n)}_part")
                scope.lines.append(f"{t} {array}[{chunks.count}];")
                chunk.lines.append(f"{array}[{chunks.part}] = {name};")
                arrays[n].append(array)
        scope.lines.append(loops.parallel)
        scope.block(chunks.header, chunk)
        merge = scope.inner()
        for n, (wide, names) in totals.items():
            merge.lines.append(wide.merge(names, [f"{a}[{chunks.part}]" for a in arrays[n]], group.lanes))
        scope.block(chunks.header, merge)
        plain = self.printer.emitter(scope)
        return {n: wide.result(names, False, plain) for n, (wide, names) in totals.items()}

    def take(self, r: Reduction, s: Reduce | Scan, scope: Scope, names: list[str], vec: bool) -> None:
        """Add the value of ``s`` at this point to accumulators ``names``."""
        lanes = self.printer.emitter(scope)
        value = r.prepared(self.printer.emit(r.term, scope), lanes)
        if vec:
            value = lanes.splat(value)
            if scope.tail and self.loops.vector in getattr(s, "axes", ()):
                lanes.preamble.need("keep")
                if value.code.isidentifier() is False:
                    value = self.printer.declare(value, scope, "t")
                identity = r.parts(lanes, True)[0][2]
                text = f"keep({value.code}, {identity}, {scope.tail})"
                value = Value(text, value.kind, True)
        position = self._position(r, s, lanes, vec) if r.positional and isinstance(s, Reduce) else ""
        scope.lines.append(r.take(names, value.code, position, lanes))

    def _position(self, r: Reduction, s: Reduce, lanes: Lanes, vec: bool) -> str:
        """The flattened position along the reduced axes."""
        terms, step, lane = [], 1, 0
        for a in reversed(s.axes):
            loop = self.printer.loops[a]
            terms.append(loop if step == 1 else f"{loop} * {step}")
            lane = step if a == self.loops.vector else lane
            step *= self.loops.nest.extent(a)
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


def _cast(r: Reduction, names: list[str]) -> list[str]:
    """Accumulators of a part as those of the total take them."""
    return [f"({SCALAR[r.kind]}){names[0]}", *names[1:]]
