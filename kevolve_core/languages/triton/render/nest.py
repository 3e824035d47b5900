"""Prints one loop nest as one Triton kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import define, evolve, field, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Axis,
    Buffer,
    Contract,
    Expr,
    LoopNest,
    Op,
    Reduce,
    Statement,
    Store,
)  # fmt: skip
from kevolve_core.languages.triton.render.descriptors import Described
from kevolve_core.languages.triton.render.passes import Walks
from kevolve_core.languages.triton.render.printer import Frame, Printer
from kevolve_core.languages.triton.render.schedule import NestSchedule
from kevolve_core.languages.triton.render.scope import Scope
from kevolve_core.languages.triton.render.tiling import Tiling, divisible, passes_of, tiling_of
from kevolve_core.languages.triton.render.words import Names
from kevolve_core.languages.windows import jammed, misaligned, overlapping, unrolled

__all__ = [
    "Kernel", "contracted", "decorated", "parameters", "print_nest", "with_offsets", "without_first",
]  # fmt: skip


@frozen
class Kernel:
    """A printed kernel and its launch.

    Args:
        name: of its function.
        text: its source, decorated.
        buffers: arguments before the constexprs, by buffer's name.
        constexprs: names and values of the constexprs.
        grid: programs.
        options: launch options.
        helpers: helper functions it calls.
        step: whether it takes the number of the step of a recurrence after its buffers.
        offsets: integers that it takes last, which say where in its buffers a launch works.
        descriptors: arguments after the buffers: tiles of other buffers.
    """

    name: str
    text: str
    buffers: tuple[str, ...]
    constexprs: Mapping[str, int]
    grid: int
    options: Mapping[str, int]
    helpers: tuple[str, ...] = ()
    step: bool = False
    offsets: tuple[str, ...] = ()
    descriptors: tuple[Described, ...] = ()


def parameters(nest: LoopNest) -> tuple[str, ...]:
    """Buffers a nest reads, then those it writes."""
    writes = nest.writes()
    return (*sorted(nest.reads() - set(writes)), *writes)


def without_first(nest: LoopNest) -> LoopNest:
    """``nest`` at one point of its first axis; expressions still mention that."""
    return evolve(nest, axes=nest.axes[1:], outer=max(0, nest.outer - 1))


def with_offsets(nest: LoopNest, offsets: Sequence[tuple[str, Axis]]) -> LoopNest:
    """``nest`` with ``offsets`` (see `print_nest`) as further loops around it."""
    return evolve(nest, axes=(*(a for _, a in offsets), *nest.axes), outer=nest.outer + len(offsets))


def contracted(nest: LoopNest) -> LoopNest:
    """``nest`` with contractions as plain sums of products."""

    def plain(s: Statement) -> Statement:
        if not isinstance(s, Contract):
            return s
        product = Op("mul", (_in(s.left, s.accumulate), _in(s.right, s.accumulate)), s.accumulate)
        return Reduce(s.name, "sum", product, s.axes, s.dtype, s.accumulate)

    return evolve(nest, body=tuple(plain(s) for s in nest.body))


def _in(e: Expr, dtype: str) -> Expr:
    return e if e.dtype == dtype else Op("cast", (e,), dtype)


def print_nest(
    nest: LoopNest,
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str],
    schedule: NestSchedule,
    function: str,
    taken: Sequence[str] = (),
    step: bool = False,
    offsets: Sequence[tuple[str, Axis]] = (),
) -> Kernel:
    """The kernel of ``nest``. ``names`` are the buffers' parameters, ``taken`` names it must not use. With
    ``step`` the first axis is a recurrence's: a launch computes the point of it that it is told. ``offsets``
    are indices that are no loops of the nest, by the parameter's name: a launch is told them too.

    Raises UnsupportedError for what Triton cannot say.
    """
    nest = plain = contracted(nest)
    if not step:
        nest = unrolled(plain)
    single = nest is not plain and misaligned(nest)
    if not step and schedule.together > 1 and (axis := overlapping(nest)):
        nest = jammed(nest, axis, schedule.together)
    return _Nest(nest, buffers, names, schedule, function, taken, step, offsets, single).kernel()


def decorated(told: Sequence[str]) -> str:
    """Triton's decorator for a kernel with the integer parameters ``told``, one binary for all of their
    values."""
    named = ", ".join(f'"{name}"' for name in told)
    return f"@triton.jit(do_not_specialize=[{named}])" if told else "@triton.jit"


@define
class _Nest:
    nest: LoopNest
    buffers: Mapping[str, Buffer]
    names: Mapping[str, str]
    schedule: NestSchedule
    function: str
    taken: Sequence[str] = ()
    step: bool = False
    offsets: Sequence[tuple[str, Axis]] = ()
    single: bool = False  # whether a lane takes one element at a time: with several, misaligned loads of
    # neighbouring lanes would be strides apart
    tiling: Tiling = field(init=False)

    def kernel(self) -> Kernel:
        nest, s = self.nest, self.schedule
        self.tiling = tiling = tiling_of(without_first(nest) if self.step else nest)
        self._check()
        tiled = bool(tiling.rows) and s.rows > 1
        rank = 2 if tiled else 1 if tiling.cols else 0
        rows, cols = tiling.row_count, tiling.col_count
        row_blocks = -(-rows // s.rows) if tiled else rows
        persistent = 0 < s.programs < row_blocks and bool(tiling.rows) and tiling.combines
        row_mask = "row_mask" if tiled and rows % s.rows else ""
        told = [name for name, _ in self.offsets]
        known = [*told, *(self.names[b] for b in parameters(nest))]
        variables = Names([*self.taken, "part", "block", "step", *known])
        scalars = [("step", nest.axes[:1] if self.step else ()), *((n, (a,)) for n, a in self.offsets)]
        printer = Printer(
            with_offsets(nest, self.offsets), tiling, self.buffers, self.names, variables,
            frozenset("R") if tiled else frozenset(), row_mask, rank, scalars=tuple(scalars),
        )  # fmt: skip
        body = Scope()
        col_blocks = 1
        block = "tl.program_id(0)"
        parts = s.spread if self._spreads() else 1
        persistent = persistent and parts == 1
        if parts > 1:
            body.lines.append(f"part = {block} % {parts}")
            block = f"({block} // {parts})"
        if not tiling.combines and tiling.cols:
            col_blocks = -(-cols // s.cols)
            self._rectangle(printer, body, row_blocks, col_blocks)
        elif tiling.rows:
            self._rows(printer, body, "block" if persistent else block)
        Walks(printer, evolve(s, spread=parts), body).run()
        lines = body.lines
        if persistent:
            header = f"for block in range({block}, {row_blocks}, {s.programs}):"
            lines = [header, *(f"    {x}" for x in lines)]
        lines = [*(f"{name} = {printer.long(name)}" for name in told if printer.wide), *lines]
        constexprs: dict[str, int] = {}
        text = "\n".join(lines)
        if "ROWS" in text:
            constexprs["ROWS"] = s.rows
        if "COLS" in text:
            constexprs["COLS"] = s.cols
        buffers = parameters(nest)
        told = ["step", *told] if self.step else told
        arguments = [self.names[b] for b in buffers] + told
        arguments += [f"{n}: tl.constexpr" for n in constexprs]
        jit = decorated(told)
        head = [f"def {self.function}({', '.join(arguments)}):", *(f"    # {x}" for x in _covers(nest))]
        source = "\n".join([jit, *head, *(f"    {x}" if x else "" for x in lines)])
        grid = s.programs if persistent else row_blocks * col_blocks * parts
        options = {"num_warps": s.num_warps, "num_stages": s.num_stages}
        helpers = tuple(printer.helpers)
        return Kernel(
            self.function, source, buffers, constexprs, grid, options, helpers, self.step,
            tuple(name for name, _ in self.offsets),
        )  # fmt: skip

    def _spreads(self) -> bool:
        """Whether a walk that only stores is longer than one step."""
        if not self.tiling.combines:
            return False
        return any(
            divisible(p, self.nest) and math.prod(self.nest.extent(a) for a in p.cols) > self.schedule.cols
            for p in passes_of(self.nest, self.tiling)
        )

    def _check(self) -> None:
        for s in () if self.step else self.nest.body:
            if isinstance(s, Store) and s.buffer in self.nest.reads():
                raise UnsupportedError(
                    "a nest that reads what it writes is not printed in Triton",
                    where=f"nest {self.nest.name}, {s.buffer}",
                )

    def _rows(self, printer: Printer, body: Scope, block: str) -> None:
        """The row indices of a program of a reducing nest."""
        if not printer.row_dims:
            body.lines.append(f"row = {printer.long(block)}")
            return
        first = f"{printer.long(block)} * ROWS"
        body.lines.append(f"row = {first} + tl.arange(0, ROWS)[:, None]")
        if printer.row_mask:
            body.lines.append(f"row_mask = row < {self.tiling.row_count}")

    def _rectangle(self, printer: Printer, body: Scope, row_blocks: int, col_blocks: int) -> None:
        """The row and column indices of a program of a pointwise nest."""
        tiling, s = self.tiling, self.schedule
        pid = "tl.program_id(0)"
        across, down = pid, pid
        if col_blocks > 1 and row_blocks > 1:
            across, down = f"({pid} % {col_blocks})", f"({pid} // {col_blocks})"
        if tiling.rows and tiling.row_count > 1:
            if col_blocks > 1 and row_blocks == 1:
                down = "0"
            if not printer.row_dims:
                body.lines.append(f"row = {printer.long(down)}")
            else:
                lanes = "tl.arange(0, ROWS)[:, None]"
                one = down == "0"
                start = printer.long(lanes) if one else f"{printer.long(down)} * ROWS + {lanes}"
                body.lines.append(f"row = {start}")
                if printer.row_mask:
                    body.lines.append(f"row_mask = row < {tiling.row_count}")
        lanes = "tl.arange(0, COLS)" + ("[None, :]" if printer.rank == 2 else "")
        if col_blocks > 1:
            body.lines.append(f"col = {printer.long(across)} * COLS + {lanes}")
        else:
            body.lines.append(f"col = {printer.long(lanes)}")
        mask = ""
        if tiling.col_count % s.cols:
            body.lines.append(f"col_mask = col < {tiling.col_count}")
            mask = "col_mask"
        if self.single:
            steps = "1, 1" if printer.rank == 2 else "1"
            body.lines.append(f"col = tl.multiple_of(col, [{steps}])")
        printer.frame = Frame(tiling.cols, "col", mask)


def _covers(nest: LoopNest) -> list[str]:
    def product(axes: tuple[Axis, ...]) -> str:
        return " x ".join(str(a.extent) for a in axes) or "1"

    covers = ", ".join(dict.fromkeys(nest.covers)) if nest.covers else nest.name
    inner = f", {product(nest.inner_axes)} each" if nest.inner_axes else ""
    text = f"{nest.anchor}: {covers}; {product(nest.outer_axes)} points{inner}"
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 96:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
