"""Library calls that are sums of products, as index maps: matrix products and convolutions.

A `Contraction` says what the kernel of `kevolve_core.languages.triton.render.product` loads for tile
coordinates (batch, row, column, depth), all in the terms of the loop IR: axes, affine indices and masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    Operand,
    Program,
    Reduce,
    Statement,
    Store,
    walk,
)  # fmt: skip
from kevolve_core.languages.triton.render.tiling import expressions
from kevolve_core.synth.index import Indexer, integer, linear

__all__ = ["Contraction", "contraction_of", "fused_nest", "is_product", "partial_nest", "plain_nest"]

_DTYPES = frozenset(["float32", "float16", "bfloat16"])


@frozen
class Contraction:
    """``out[flat] = sum over depth of left * right``.

    Args:
        batch, rows, cols, depth: axes of each coordinate, slowest first.
        left, right: what is read, over batch, rows and depth, and over batch, depth and cols.
        flat: the position in ``output`` of a point of batch, rows and cols.
        output: buffer of the call's result.
        added: what is added to every sum (a convolution's bias), or None.
        valid: which points of batch, rows and cols the output has; None for all.
        matrices: both operands as they are, where the call is a matrix product.
    """

    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    cols: tuple[Axis, ...]
    depth: tuple[Axis, ...]
    left: Load
    right: Load
    flat: Expr
    output: str
    added: Load | None = None
    valid: Expr | None = None
    matrices: tuple[Operand, Operand] | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Points of batch, rows, cols and depth."""
        batch, m, n, k = (
            math.prod(a.extent for a in x) for x in (self.batch, self.rows, self.cols, self.depth)
        )
        return batch, m, n, k


def is_product(call: LibraryCall) -> bool:
    """Whether the call may be a contraction; buffers' types and layouts can still say no."""
    if call.repeat:
        return False
    name = call.op.removeprefix("aten::").removesuffix(".default")
    if name in ("mm", "bmm"):
        return len(call.operands) == 2 and not call.attributes and not call.outputs
    return name == "convolution" and len(call.operands) in (2, 3) and not call.outputs


def contraction_of(call: LibraryCall, buffers: Mapping[str, Buffer]) -> Contraction | None:
    """The call as a contraction, or None where it is another operator, type or layout."""
    found = buffers[call.output]
    dtypes = {buffers[o.buffer].dtype for o in call.operands}
    if not is_product(call) or found.strides is not None or not found.size:
        return None
    if len(dtypes) != 1 or not dtypes <= _DTYPES:
        return None
    return _convolution(call, buffers) if "convolution" in call.op else _product(call, buffers)


def _at(operand: Operand, dtype: str, index: tuple[Expr, ...], ix: Indexer, mask: Expr | None = None) -> Load:
    """An element of an operand; its view becomes a flat index into the buffer seen as one dimension."""
    flat = ix.add(ix.dot(index, operand.strides), integer(operand.offset))
    other = Const(0.0, dtype) if mask is not None else None
    return Load(operand.buffer, (flat,), dtype, mask, other)


def _axes(ix: Indexer, **extents: int) -> dict[str, Axis]:
    for name, n in extents.items():
        ix.extents[name] = n
    return {name: Axis(name, n) for name, n in extents.items()}


def _product(call: LibraryCall, buffers: Mapping[str, Buffer]) -> Contraction:
    a, b = call.operands
    dtype = buffers[a.buffer].dtype
    ix = Indexer()
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    axes = _axes(ix, b=a.shape[0] if len(a.shape) == 3 else 1, m=m, n=n, k=k)
    lead = (Index("b"),) if len(a.shape) == 3 else ()
    flat = ix.dot((Index("b"), Index("m"), Index("n")), (m * n, n, 1))
    return Contraction(
        (axes["b"],), (axes["m"],), (axes["n"],), (axes["k"],),
        _at(a, dtype, (*lead, Index("m"), Index("k")), ix),
        _at(b, dtype, (*lead, Index("k"), Index("n")), ix),
        flat, call.output, matrices=(a, b),
    )  # fmt: skip


def _listed(value: object, n: int) -> list[int]:
    found = [int(v) for v in value] if isinstance(value, (list, tuple)) else []
    return found * n if len(found) == 1 else found


def _own_order(call: LibraryCall, output: Buffer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of the call's result, whose dimensions the buffer may hold in another order."""
    places = (
        [call.order.index(d) for d in range(len(output.shape))] if call.order else range(len(output.shape))
    )
    return tuple(output.shape[d] for d in places), tuple(output.stride[d] for d in places)


def _convolution(call: LibraryCall, buffers: Mapping[str, Buffer]) -> Contraction | None:
    """Implicit GEMM: rows are output pixels, columns output channels, depth input channels and taps."""
    given = call.attributes
    x, w, *bias = call.operands
    if bias and len(buffers[bias[0].buffer].shape) != 1:
        return None
    spatial = len(x.shape) - 2
    if spatial < 1 or len(w.shape) != len(x.shape):
        return None
    stride, padding, dilation = (_listed(given.get(k), spatial) for k in ("stride", "padding", "dilation"))
    stride, padding, dilation = stride or [1] * spatial, padding or [0] * spatial, dilation or [1] * spatial
    groups = int(given.get("groups", 1))
    dtype = buffers[x.buffer].dtype
    out, steps = _own_order(call, buffers[call.output])
    if given.get("transposed"):
        windows = _Windows(tuple(stride), tuple(padding), tuple(dilation), groups)
        return _transposed(call, windows, dtype, out, steps)
    channels, taken = w.shape[0] // groups, w.shape[1]
    ix = Indexer()
    sizes = {"g": groups, "n": x.shape[0], "c": taken, "co": channels}
    sizes |= {f"o{d}": out[2 + d] for d in range(spatial)} | {f"t{d}": w.shape[2 + d] for d in range(spatial)}
    axes = _axes(ix, **sizes)
    places: list[Expr] = []
    mask: Expr | None = None
    for d in range(spatial):
        place = ix.add(ix.scale(Index(f"o{d}"), stride[d]), ix.scale(Index(f"t{d}"), dilation[d]))
        place = ix.sub(place, integer(padding[d]))
        places.append(place)
        for test in (ix.compare("ge", place, 0), ix.compare("lt", place, x.shape[2 + d])):
            mask = _both(mask, test)
    channel = ix.add(ix.scale(Index("g"), taken), Index("c"))
    filters = ix.add(ix.scale(Index("g"), channels), Index("co"))
    taps = tuple(Index(f"t{d}") for d in range(spatial))
    pixels = tuple(Index(f"o{d}") for d in range(spatial))
    left = _at(x, dtype, (Index("n"), channel, *places), ix, mask)
    right = _at(w, dtype, (filters, Index("c"), *taps), ix)
    return Contraction(
        (axes["g"],), (axes["n"], *(axes[f"o{d}"] for d in range(spatial))), (axes["co"],),
        (axes["c"], *(axes[f"t{d}"] for d in range(spatial))),
        left, right, ix.dot((Index("n"), filters, *pixels), steps), call.output,
        _at(bias[0], dtype, (filters,), ix) if bias else None,
    )  # fmt: skip


@frozen
class _Windows:
    """How a convolution's windows lie; one number a spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _transposed(
    call: LibraryCall, windows: _Windows, dtype: str, out: tuple[int, ...], steps: tuple[int, ...]
) -> Contraction | None:
    """A transposed convolution as plain ones, one for each offset in a stride, in the batch.

    Output pixel ``y = s q + r`` takes tap ``k`` of input pixel ``(y + p - d k) / s``, so the pixels of one
    remainder ``r`` share their taps: with ``d = 1`` those are ``k = (r + p) mod s + s t``, and the input
    is ``q + (r + p) // s - t``. With ``s = 1`` every tap serves, at any ``d``. Other strides with dilation
    stay with the library.
    """
    x, w, *bias = call.operands
    dims = range(len(x.shape) - 2)
    if any(windows.stride[d] > 1 and windows.dilation[d] > 1 for d in dims):
        return None
    groups, taken, channels = windows.groups, x.shape[1] // windows.groups, w.shape[1]
    ix = Indexer()
    sizes = {"g": groups} | {f"r{d}": windows.stride[d] for d in dims} | {"n": x.shape[0]}
    sizes |= {f"q{d}": -(-out[2 + d] // windows.stride[d]) for d in dims} | {"co": channels, "c": taken}
    sizes |= {f"t{d}": -(-w.shape[2 + d] // windows.stride[d]) for d in dims}
    axes = _axes(ix, **sizes)
    pixels, taps, places = [], [], []
    valid: Expr | None = None
    inside: Expr | None = None
    there: Expr | None = None
    for d in dims:
        s, t = windows.stride[d], Index(f"t{d}")
        phase = ix.add(Index(f"r{d}"), integer(windows.padding[d]))
        pixel = ix.add(ix.scale(Index(f"q{d}"), s), Index(f"r{d}"))
        tap = ix.add(ix.remainder(phase, s), ix.scale(t, s)) if s > 1 else t
        place = ix.sub(ix.add(Index(f"q{d}"), ix.floordiv(phase, s)), ix.scale(t, windows.dilation[d]))
        pixels.append(pixel)
        taps.append(tap)
        places.append(place)
        valid = _both(valid, ix.compare("lt", pixel, out[2 + d]))
        there = _both(there, ix.compare("lt", tap, w.shape[2 + d]))
        for test in (ix.compare("ge", place, 0), ix.compare("lt", place, x.shape[2 + d])):
            inside = _both(inside, test)
    channel = ix.add(ix.scale(Index("g"), taken), Index("c"))
    filters = ix.add(ix.scale(Index("g"), channels), Index("co"))
    left = _at(x, dtype, (Index("n"), channel, *places), ix, inside)
    right = _at(w, dtype, (channel, Index("co"), *taps), ix, there)
    return Contraction(
        (axes["g"], *(axes[f"r{d}"] for d in dims)), (axes["n"], *(axes[f"q{d}"] for d in dims)),
        (axes["co"],), (axes["c"], *(axes[f"t{d}"] for d in dims)),
        left, right, ix.dot((Index("n"), filters, *pixels), steps), call.output,
        _at(bias[0], dtype, (filters,), ix) if bias else None, valid,
    )  # fmt: skip


def _both(mask: Expr | None, test: Expr) -> Expr | None:
    """``mask`` and ``test``, where a test that always holds is none."""
    if isinstance(test, Const) and test.value:
        return mask
    return test if mask is None else Op("logical_and", (mask, test), "bool")


# --- what follows the product -------------------------------------------------------------------------------


def _result_axes(c: Contraction) -> tuple[Axis, ...]:
    return (*c.batch, *c.rows, *c.cols)


def plain_nest(c: Contraction, name: str, output: Buffer) -> LoopNest:
    """The nest that stores the result as it is, over the contraction's own axes."""
    index = (*(integer(0) for _ in output.shape[1:]), c.flat)
    axes = _result_axes(c)
    store = Store(c.output, index, Load(c.output, index, output.dtype), mask=c.valid)
    return LoopNest(name, axes, len(axes), (store,))


def partial_nest(c: Contraction, name: str, into: Buffer) -> LoopNest:
    """The nest that stores one part of the result as row ``part`` of ``into``."""
    value = Load(c.output, (c.flat,), into.dtype)
    axes = (Axis("part", into.shape[0]), *_result_axes(c))
    store = Store(into.name, (Index("part"), c.flat), value, mask=c.valid)
    return LoopNest(name, axes, len(axes), (store,))


def fused_nest(c: Contraction, nest: LoopNest, program: Program) -> LoopNest | None:
    """``nest``, which reads the result, over the contraction's own axes; None where it is not pointwise over
    the result."""
    buffer = program.buffers[c.output]
    reads = {
        tuple(e.index)
        for s in nest.body
        for root in expressions(s)
        for e in walk(root)
        if isinstance(e, Load) and e.buffer == c.output
    }
    if any(isinstance(s, Reduce) or not _pointwise(s) for s in nest.body) or len(reads) != 1:
        return None
    if math.prod(a.extent for a in nest.axes) != buffer.size:
        return None
    ix = Indexer()
    for a in (*nest.axes, *_result_axes(c)):
        ix.extents[a.name] = a.extent
    form = ix.dot(next(iter(reads)), buffer.stride)
    offset, terms = linear(form)
    if offset or not all(isinstance(a, Index) for a in terms):
        return None
    by: dict[str, Expr] = {}
    step = 1
    for atom, coefficient in sorted(terms.items(), key=lambda t: t[1]):
        assert isinstance(atom, Index)
        extent = nest.extent(atom.axis)
        if coefficient != step:
            return None
        by[f"{atom.axis}"] = ix.remainder(ix.floordiv(c.flat, step), extent)
        step *= extent
    if step != buffer.size or any(a.name not in by and a.extent > 1 for a in nest.axes):
        return None
    by |= {a.name: integer(0) for a in nest.axes if a.name not in by}
    if {a.name for a in nest.axes} & {a.name for a in _result_axes(c)}:
        return None
    body = tuple(_within(_substituted(s, ix, by), c.valid) for s in nest.body)
    axes = _result_axes(c)
    return LoopNest(nest.name, axes, len(axes), body, nest.covers, nest.anchor)


def _pointwise(s: Statement) -> bool:
    return isinstance(s, Let) or (isinstance(s, Store) and s.mode == "set")


def _within(s: Statement, valid: Expr | None) -> Statement:
    """``s``, which stores at points of the output alone."""
    if valid is None or not isinstance(s, Store):
        return s
    return evolve(s, mask=valid if s.mask is None else Op("logical_and", (valid, s.mask), "bool"))


def _substituted(s: Statement, ix: Indexer, by: Mapping[str, Expr]) -> Statement:
    def change(e: Expr) -> Expr:
        return ix.substitute(e, by)

    if isinstance(s, Let):
        return evolve(s, value=change(s.value))
    assert isinstance(s, Store)
    mask = None if s.mask is None else change(s.mask)
    return evolve(s, index=tuple(change(i) for i in s.index), value=change(s.value), mask=mask)
