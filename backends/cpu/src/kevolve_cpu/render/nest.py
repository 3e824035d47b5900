"""Prints one loop nest as one C++ function."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from kevolve_core.ir import Buffer, Let, LoopNest, Search
from kevolve_cpu.render.blocks import Blocks, Crossing, crossing
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.exact import Products
from kevolve_cpu.render.kinds import STORAGE
from kevolve_cpu.render.loops import Loops
from kevolve_cpu.render.passes import Pass, passes_of
from kevolve_cpu.render.preamble import HELPER_NAMES, Preamble
from kevolve_cpu.render.printer import Printer
from kevolve_cpu.render.scope import Scope
from kevolve_cpu.render.sinks import Sinks
from kevolve_cpu.render.stores import Stores
from kevolve_cpu.render.tidy import crosses, tidy

__all__ = ["parameters", "print_nest"]


def print_nest(
    nest: LoopNest,
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str],
    schedule: Schedule,
    preamble: Preamble,
    function: str,
    rows: bool = False,
    products: Products | None = None,
) -> str:
    """The text of ``static void function(…)``; its parameters are the buffers read, then those written.

    With ``rows`` it takes the range of the outermost axis as two further arguments, for a tiled epilogue.
    ``products`` are those of the whole program; None: of this nest alone.
    """
    flat = tidy(nest, buffers, keep_first=rows)
    lengths = {n: b.shape[-1] if b.shape else 1 for n, b in buffers.items()}
    own = Products.of([nest]) if products is None else products
    return _Nest(
        nest, flat.nest, flat.buffers, names, schedule, preamble, function, rows, lengths, own
    ).text()


def parameters(nest: LoopNest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Buffers a nest reads and buffers it writes, in the order of its function's parameters."""
    writes = nest.writes()
    return tuple(sorted(nest.reads() - set(writes))), writes


@define
class _Nest:
    original: LoopNest
    nest: LoopNest
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    schedule: Schedule
    preamble: Preamble
    function: str
    rows: bool
    lengths: Mapping[str, int]
    products: Products
    printer: Printer = field(init=False)

    def text(self) -> str:
        s = self.schedule
        nest = self.nest
        axis_names = {a.name for a in nest.axes}
        vector = s.vector_axis if s.vector_axis in axis_names else ""
        reads, writes = parameters(self.original)
        loops = {a.name: _loop_name(a.name) for a in nest.axes}
        self.printer = Printer(
            self.buffers, self.names, self.preamble, s.lanes, vector, {}, nest.spans(),
            frozenset(writes), loops, rows=self.lengths, linear=s.search == "linear",
            products=self.products,
        )  # fmt: skip
        self.printer.reserved |= (
            HELPER_NAMES | set(loops.values()) | {self.names[b] for b in (*reads, *writes)}
        )
        for statement in nest.body:
            if isinstance(statement, Let):
                self.printer.definitions[statement.name] = statement.value
            elif isinstance(statement, Search):
                self.printer.searches[statement.name] = statement
        body = Scope(frozenset())
        self._tasks(body, vector)
        arguments = [f"const {STORAGE[self.buffers[b].dtype]} *__restrict {self.names[b]}" for b in reads]
        arguments += [f"{STORAGE[self.buffers[b].dtype]} *__restrict {self.names[b]}" for b in writes]
        if self.rows:
            arguments += ["long first_row", "long last_row"]
        lines = [f"// {line}" for line in _covers(self.original)]
        lines.append(f"static void {self.function}({', '.join(arguments)}) {{")
        lines += [line if line.startswith("#") else f"    {line}" for line in body.lines]
        lines.append("}")
        return "\n".join(lines)

    def _tasks(self, function: Scope, vector: str) -> None:
        s, nest = self.schedule, self.nest
        outer = [a.name for a in nest.outer_axes]
        inner = tuple(a.name for a in nest.inner_axes)
        tiled = vector in outer
        lanes_mode = tiled and s.tile == 0
        found = None
        if s.transpose and tiled and not lanes_mode and not self.rows:
            found = crossing(nest, vector, self.printer.written, s.lanes)
        loops = [a for a in outer if a != vector and (found is None or a != found.axis)]
        if tiled and not lanes_mode:
            inner = (*inner, vector)
        passes = passes_of(nest, inner, s.fuse)
        bounds: dict[str, tuple[str, str]] = {}
        step = 0
        if tiled:
            step = s.tile if not lanes_mode else 0
            extent = nest.extent(vector)
            if lanes_mode:
                step = _lane_block(extent, s.lanes, len(loops) > 0)
            step = min(step, extent)
        task = function.inner(*loops)
        split_vector = bool(step) and step < nest.extent(vector)
        if tiled:
            name = self.printer.loops[vector]
            if split_vector:
                lo, hi = self.printer.fresh(f"{name}_first"), self.printer.fresh(f"{name}_last")
                bounds[vector] = (lo, hi)
                self.printer.bases[vector] = lo
                extent = nest.extent(vector)
                stop = f"{lo} + {step}"
                if extent % step:
                    stop = f"{stop} < {extent} ? {stop} : {extent}"
                task.lines.append(f"const long {hi} = {stop};")
        around = Loops(self.printer, nest, s, vector, bounds)
        stores = Stores(self.printer, s, vector, self.buffers, self.names, found is not None)
        sinks = Sinks(around, stores, self.names, loops[-1] if loops and s.prefetch != "none" else "")
        split = s.parallel == "inner" and not loops and not split_vector
        block = ""
        if found is not None:
            block = self._blocks(task, around, stores, passes, found)
        elif lanes_mode:
            self._lanes(task, sinks, passes, vector, inner)
        else:
            self._passes(task, sinks, passes, inner, split)
        headers = []
        for i, a in enumerate(loops):
            first = self.rows and i == 0
            low, high = ("first_row", "last_row") if first else ("0", str(nest.extent(a)))
            v = self.printer.loops[a]
            headers.append(f"for (long {v} = {low}; {v} < {high}; ++{v})")
        if split_vector:
            lo, _ = bounds[vector]
            header = f"for (long {lo} = 0; {lo} < {nest.extent(vector)}; {lo} += {step})"
            # What one point of the loops around reads across the tile, the next one reads on.
            around_all = not self.rows and set(outer) == {a.name for a in nest.axes} and crosses(nest, vector)
            headers.insert(0 if around_all else len(headers), header)
        headers += [block] if block else []
        if self.rows and not (loops and loops[0] == outer[0]):
            raise ValueError(f"nest {nest.name}: the outermost axis of an epilogue is not a row loop")
        if headers and s.parallel == "outer":
            function.lines.append(self._pragma(len(headers)))
        if headers:
            opening = headers.pop()
            for depth, h in enumerate(headers):
                function.lines.append("    " * depth + h)
            pad = "    " * len(headers)
            function.lines.append(f"{pad}{opening} {{")
            function.lines += [x if x.startswith("#") else f"{pad}    {x}" for x in task.lines]
            function.lines.append(f"{pad}}}")
        else:
            function.lines += task.lines

    def _blocks(self, task: Scope, around: Loops, stores: Stores, passes: list[Pass], found: Crossing) -> str:
        """Print a task that takes as many points along the axis of ``found`` as a vector has lanes; gives the
        header of the loop over them."""
        name, extent, side = self.printer.loops[found.axis], self.nest.extent(found.axis), self.schedule.lanes
        first = self.printer.fresh(f"{name}_first")
        last = f"{first} + {side}"
        if extent % side:
            stop = f"{last} < {extent} ? {last} : {extent}"
            last = self.printer.fresh(f"{name}_last")
            task.lines.append(f"const long {last} = {stop};")
        Blocks(around, stores, found, first, last).run(task, passes)
        return f"for (long {first} = 0; {first} < {extent}; {first} += {side})"

    def _pragma(self, loops: int) -> str:
        s = self.schedule
        text = "#pragma omp parallel for"
        if loops > 1:
            text += f" collapse({loops})"
        text += f" schedule(dynamic, {s.rows})" if s.rows else " schedule(static)"
        if s.threads:
            text += f" num_threads({s.threads})"
        return text

    def _passes(
        self, task: Scope, sinks: Sinks, passes: list[Pass], inner: tuple[str, ...], split: bool
    ) -> None:
        sinks.plan(task, passes, inner)
        for p in passes:
            sinks.run(p, task, passes, split)

    def _lanes(
        self, task: Scope, sinks: Sinks, passes: list[Pass], vector: str, inner: tuple[str, ...]
    ) -> None:
        """The whole task for one vector of points of an outer axis."""

        def body(scope: Scope) -> None:
            self._passes(scope, sinks, passes, inner, False)

        sinks.loops.over_vectors(task, vector, body, unroll=1)


def _lane_block(extent: int, lanes: int, enough: bool) -> int:
    """Points of the vector axis a task takes where every task holds whole vectors of it."""
    block = lanes * (64 if enough else 8)
    return extent if extent <= block else block


def _loop_name(axis: str) -> str:
    clean = "".join(c if c.isalnum() else "_" for c in axis)
    return clean if not clean[0].isdigit() else f"i{clean}"


def _covers(nest: LoopNest) -> list[str]:
    axes = " x ".join(f"{a.name} {a.extent}" for a in nest.axes) or "one point"
    covers = ", ".join(nest.covers) if nest.covers else nest.name
    return [f"{nest.anchor}: {covers}", f"over {axes}"]
