"""Prints a contraction as a tiled kernel on matrix units, with what follows it in registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from kevolve_core.ir import (
    Axis,
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Program,
    Reduce,
    Statement,
    Store,
    Var,
    itemsize,
)
from kevolve_core.languages.triton.render.contraction import Contraction, fused_nest, plain_nest
from kevolve_core.languages.triton.render.descriptors import Described, described
from kevolve_core.languages.triton.render.nest import Kernel, decorated, with_offsets
from kevolve_core.languages.triton.render.printer import Frame, Printer
from kevolve_core.languages.triton.render.scope import Scope, Text
from kevolve_core.languages.triton.render.tiling import Tiling, expressions, uses
from kevolve_core.languages.triton.render.words import Names, power_of_two

__all__ = ["ProductSchedule", "print_product", "product_schedule", "split_steps"]


#: Variables of every kernel of a contraction.
_WORDS = ("acc", "batch", "block", "chunk", "col_start", "depth", "depth_mask", "first", "height", "part",
          "partial", "row_start", "stop", "tile")  # fmt: skip


@frozen
class ProductSchedule:
    """Tile and launch of a contraction.

    Args:
        rows, cols, depth: the tile, powers of two from 16.
        group: tiles of rows that share their columns in the cache, one after another.
        num_warps, num_stages: launch options.
        programs: programs of a persistent grid, each taking tiles in turn; 0 for one program a tile.
        split: parts of the depth, summed by a second kernel; 1 for none.
        precision: how float32 operands are multiplied: ``ieee``, ``tf32``, ``tf32x3``, ``bf16x3`` or
            ``bf16x6``.
        chunk: steps of the depth after which a partial sum is added to the running one; 0 for never.
        loads: how tiles of operands are loaded: by ``pointers``, or through ``descriptors`` where an operand
            is a matrix that has one.
    """

    rows: int = 64
    cols: int = 64
    depth: int = 32
    group: int = 8
    num_warps: int = 4
    num_stages: int = 3
    programs: int = 0
    split: int = 1
    precision: str = "ieee"
    chunk: int = 0
    loads: str = "pointers"


def product_schedule(c: Contraction, point: Mapping[str, Any]) -> ProductSchedule:
    """``point`` (parameters named ``tile_…``) cut to what ``c`` has."""
    _, m, n, k = c.sizes
    given = {name: point[f"tile_{name}"] for name in _FIELDS if f"tile_{name}" in point}
    s = ProductSchedule(**given)
    return evolve(
        s,
        rows=min(s.rows, max(16, power_of_two(m))),
        cols=min(s.cols, max(16, power_of_two(n))),
        depth=min(s.depth, max(16, power_of_two(k))),
        split=max(1, min(s.split, -(-k // s.depth))),
    )


_FIELDS = tuple(a.name for a in ProductSchedule.__attrs_attrs__)


def split_steps(call: LibraryCall, c: Contraction, split: int, program: Program) -> tuple[Buffer, LoopNest]:
    """The buffer of partial results and the nest that sums them, with the call's epilogue where that is
    pointwise."""
    whole = program.buffers[c.output]
    partial = Buffer(f"{c.output}_partial", (split, whole.size), "float32", "temp")
    nest = call.epilogue and fused_nest(c, call.epilogue, program)
    nest = nest or plain_nest(c, f"{call.name}_sum", whole)
    other = None if c.valid is None else Const(0.0, "float32")
    load = Load(partial.name, (Index("part"), c.flat), "float32", c.valid, other)
    total = Reduce(f"{c.output}_total", "sum", load, ("part",), "float32", "float32")
    value: Expr = Var(total.name, "float32")
    if c.added is not None:
        bias: Expr = c.added if c.added.dtype == "float32" else Op("cast", (c.added,), "float32")
        value = Op("add", (value, bias), "float32")
    if whole.dtype != "float32":
        value = Op("cast", (value,), whole.dtype)

    def change(e: Expr) -> Expr:
        if isinstance(e, Load) and e.buffer == c.output:
            return value
        if isinstance(e, Op):
            return Op(e.name, tuple(change(a) for a in e.args), e.dtype)
        return e

    def changed(s: Statement) -> Statement:
        return evolve(s, value=change(s.value)) if isinstance(s, (Let, Store)) else s

    body = tuple(changed(s) for s in nest.body)
    axes = (*nest.axes, Axis("part", split))
    return partial, LoopNest(
        f"{call.name}_sum", axes, len(nest.axes), (total, *body), nest.covers or call.covers, "contraction"
    )


def print_product(
    c: Contraction,
    nest: LoopNest,
    covers: Sequence[str],
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str],
    s: ProductSchedule,
    function: str,
    taken: Sequence[str] = (),
    offsets: Sequence[tuple[str, Axis]] = (),
) -> Kernel:
    """The kernel of ``c`` followed by ``nest``, which reads its output over its axes (`plain_nest`,
    `fused_nest`); with ``split`` over 1, `partial_nest`. ``offsets`` as in
    `kevolve_core.languages.triton.render.nest.print_nest`."""
    batch, m, n, k = c.sizes
    added = c.added if c.added is not None and s.split == 1 else None
    extra = {added.buffer} if added is not None else set()
    maps = _maps(c, s, buffers)
    sides = {x.buffer for x, d in zip((c.left, c.right), maps, strict=True) if d is None}
    reads = sorted({*sides, *extra, *(nest.reads() - {c.output})})
    writes = nest.writes()
    arguments = (*(b for b in reads if b not in writes), *writes)
    told = [name for name, _ in offsets]
    variables = Names([*taken, *(names[b] for b in arguments), *told, *_WORDS])
    tiles_of = tuple(variables.fresh(f"{names[d.buffer]}_tiles") if d is not None else "" for d in maps)
    flat = dict(buffers)
    for load in (c.left, c.right, *((added,) if added is not None else ())):
        b = buffers[load.buffer]
        span = 1 + sum((x - 1) * abs(y) for x, y in zip(b.shape, b.stride, strict=True))
        flat[load.buffer] = Buffer(b.name, (span,), b.dtype, b.role)
    row_mask, col_mask = "row_mask" if m % s.rows else "", "col_mask" if n % s.cols else ""

    scalars = (
        ("batch", c.batch), ("part", tuple(a for a in nest.axes if a.name == "part")),
        *((name, (axis,)) for name, axis in offsets),
    )  # fmt: skip

    def side(access: Load, axes: tuple[Axis, ...], row: str, mask: str) -> Printer:
        over = LoopNest(nest.name, (*c.batch, *axes, *c.depth), 1, (Store(c.output, (c.flat,), access),))
        over = with_offsets(over, offsets)
        return Printer(
            over, Tiling(axes, c.depth, True), flat, names, variables, frozenset("R"), mask, 2,
            scalars=scalars, row=row, raw=True,
        )  # fmt: skip

    left = side(c.left, c.rows, "row", row_mask)
    right = side(c.right, c.cols, "col", col_mask)
    end = Printer(
        with_offsets(nest, offsets), Tiling(c.rows, c.cols, True), buffers, names, variables,
        frozenset("R"), row_mask, 2, scalars=scalars,
    )  # fmt: skip
    body = Scope()
    wide = left.wide or right.wide or end.wide
    starts = _place(body, c, s, wide, any(tiles_of))
    body.lines.append("acc = tl.zeros([ROWS, COLS], tl.float32)")
    _depth_loop(body, c, s, _Operands(left, right, maps, tiles_of, starts, wide), k)
    end.frame = Frame(c.cols, "col", col_mask)
    if added is not None:
        bias = side(added, c.cols, "col", col_mask)
        bias.raw = False
        body.lines.append(f"acc += {bias.value(added, body).source}")
    end.held = {c.output: Text("acc", "float32", frozenset("RC"), True)}
    statements = {x.name: x for x in nest.body if not isinstance(x, Store)}
    end.counts = uses([e for x in nest.body if isinstance(x, Store) for e in expressions(x)], statements)
    for x in nest.body:
        if isinstance(x, Store):
            end.store(x, body)
    row_tiles, col_tiles = -(-m // s.rows), -(-n // s.cols)
    tiles = row_tiles * col_tiles * batch * s.split
    persistent = 0 < s.programs < tiles
    lines = [f"tile = {'block' if persistent else 'tl.program_id(0)'}", *body.lines]
    if persistent:
        header = f"for block in range(tl.program_id(0), {tiles}, {s.programs}):"
        lines = [header, *(f"    {x}" for x in lines)]
    lines = [*(f"{name} = {name}.to(tl.int64)" for name in told if wide), *lines]
    constexprs = {"ROWS": s.rows, "COLS": s.cols, "DEPTH": s.depth}
    parameters = [*(names[b] for b in arguments), *filter(None, tiles_of), *told]
    parameters += [f"{x}: tl.constexpr" for x in constexprs]
    followed = f", then {', '.join(dict.fromkeys(nest.covers))}" if nest.covers else ""
    size = f"{batch} x {m} x {n} x {k}" if batch > 1 else f"{m} x {n} x {k}"
    comment = f"# contraction: {', '.join(dict.fromkeys(covers)) or nest.name}, {size}{followed}"
    text = "\n".join([
        decorated(told), f"def {function}({', '.join(parameters)}):", f"    {comment}",
        *(f"    {x}" if x else "" for x in lines),
    ])  # fmt: skip
    return Kernel(
        function, text, arguments, constexprs, s.programs if persistent else tiles,
        {"num_warps": s.num_warps, "num_stages": s.num_stages}, tuple(end.helpers), offsets=tuple(told),
        descriptors=tuple(d for d in maps if d is not None),
    )  # fmt: skip


@frozen
class _Operands:
    """What loads tiles of both operands: printers of pointers' loads, and descriptors with their variables,
    where there are any. ``starts`` are the tile's first row and column, ``wide`` says that other indices
    have 64 bits."""

    left: Printer
    right: Printer
    maps: tuple[Described | None, Described | None]
    variables: tuple[str, ...]
    starts: tuple[str, str]
    wide: bool


def _maps(
    c: Contraction, s: ProductSchedule, buffers: Mapping[str, Buffer]
) -> tuple[Described | None, Described | None]:
    """The descriptors of both operands, as far as the schedule asks for them and layouts allow it."""
    if s.loads != "descriptors" or c.matrices is None:
        return None, None
    left, right = c.matrices
    size = itemsize(buffers[left.buffer].dtype)
    return described(left, size, s.rows, s.depth), described(right, size, s.depth, s.cols)


def _place(body: Scope, c: Contraction, s: ProductSchedule, wide: bool, tiled: bool) -> tuple[str, str]:
    """Which tile a program computes: groups of row tiles walk their columns together. Gives the tile's first
    row and column, in 32 bits; with ``tiled`` as variables."""
    batch, m, n, _ = c.sizes
    row_tiles, col_tiles = -(-m // s.rows), -(-n // s.cols)
    lines = body.lines

    def long(source: str) -> str:
        return f"({source}).to(tl.int64)" if wide else source

    if s.split > 1:
        lines.append(f"part = {long(f'tile % {s.split}')}")
        lines.append(f"tile = tile // {s.split}")
    if batch > 1:
        lines.append(f"batch = {long(f'tile // {row_tiles * col_tiles}')}")
        lines.append(f"tile = tile % {row_tiles * col_tiles}")
    group = min(s.group, row_tiles)
    if col_tiles == 1 or row_tiles == 1 or group == 1:
        across = f"tile % {col_tiles}" if col_tiles > 1 else "0"
        down = f"tile // {col_tiles}" if col_tiles > 1 else "tile"
        down = down if row_tiles > 1 else "0"
    else:
        lines.append(f"first = tile // {group * col_tiles} * {group}")
        lines.append(f"height = min({row_tiles} - first, {group})")
        down = f"(first + tile % {group * col_tiles} % height)"
        across = f"(tile % {group * col_tiles} // height)"

    def start(at: str, size: str, name: str) -> str:
        if at == "0":
            return at
        source = f"{at} * {size}" if at.startswith("(") else f"({at}) * {size}"
        if not tiled:
            return source
        lines.append(f"{name} = {source}")
        return name

    def over(start: str, positions: str) -> str:
        return positions if start == "0" else f"{start} + {positions}"

    starts = start(down, "ROWS", "row_start"), start(across, "COLS", "col_start")
    row = over(starts[0], "tl.arange(0, ROWS)[:, None]")
    col = over(starts[1], "tl.arange(0, COLS)[None, :]")
    lines += [f"row = {long(row)}", f"col = {long(col)}"]
    if m % s.rows:
        lines.append(f"row_mask = row < {m}")
    if n % s.cols:
        lines.append(f"col_mask = col < {n}")
    return starts


def _depth_loop(body: Scope, c: Contraction, s: ProductSchedule, o: _Operands, k: int) -> None:
    """Walk the depth, a tile of both operands a step."""
    step = Scope(body)
    length = -(-k // s.split // s.depth) * s.depth
    even = s.split > 1 and length * s.split == k
    masked = bool(k % s.depth) or (s.split > 1 and not even)
    if None in o.maps:
        step.lines.append("depth = start + tl.arange(0, DEPTH)")
    if masked and None in o.maps:
        step.lines.append(f"depth_mask = depth < {'stop' if s.split > 1 else k}")
    batch = "batch.to(tl.int32)" if o.wide else "batch"
    (top, side), (left, right), (a, b) = o.starts, o.maps, o.variables
    if left is None:
        one = _side(step, c.left, o.left, c.depth, "[None, :]", masked, "[ROWS, DEPTH]")
    else:
        one = left.load(a, batch, top, "start", ("ROWS", "DEPTH"))
    if right is None:
        other = _side(step, c.right, o.right, c.depth, "[:, None]", masked, "[DEPTH, COLS]")
    else:
        other = right.load(b, batch, "start", side, ("DEPTH", "COLS"))
    options = f', input_precision="{s.precision}"' if c.left.dtype == "float32" else ""
    into = "partial" if s.chunk else "acc"
    step.lines.append(f"{into} = tl.dot({one}, {other}, {into}{options})")
    first, stop = "0", str(k)
    if s.split > 1:
        part = "part.to(tl.int32)" if o.wide and o.maps != (None, None) else "part"
        end = f"{part} * {length} + {length}"
        body.lines.append(f"stop = {end if even else f'min({end}, {k})'}")
        first, stop = f"{part} * {length}", "stop"
    if not s.chunk:
        body.block(f"for start in range({first}, {stop}, DEPTH):", step)
        return
    outer = Scope(body)
    outer.lines.append("partial = tl.zeros([ROWS, COLS], tl.float32)")
    outer.block(f"for start in range(chunk, min(chunk + {s.chunk} * DEPTH, {stop}), DEPTH):", step)
    outer.lines.append("acc += partial")
    body.block(f"for chunk in range({first}, {stop}, {s.chunk} * DEPTH):", outer)


def _side(
    step: Scope, access: Load, printer: Printer, depth: tuple[Axis, ...], at: str, masked: bool, shape: str
) -> str:
    """The tile of one operand. Its printer takes the depth for columns, and rows or columns for rows."""
    variable = printer.variables.fresh("depth_of_" + ("left" if at == "[None, :]" else "right"))
    step.lines.append(f"{variable} = {printer.long(f'depth{at}')}")
    printer.frame = Frame(depth, variable, f"depth_mask{at}" if masked else "")
    text = printer.value(access, step)
    return text.source if text.dims == frozenset("RC") else f"tl.broadcast_to({text.source}, {shape})"
