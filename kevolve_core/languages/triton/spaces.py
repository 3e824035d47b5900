"""Schedule spaces of Triton steps: what a backend's `schedule_space` offers for the language.

A backend gives `TritonFacts` of its device; constraints come from them, so that a point which cannot be
launched is never proposed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from kevolve_core.ir import (
    Attention,
    Contract,
    LibraryCall,
    Load,
    LoopNest,
    Reduce,
    Scan,
    Step,
    Store,
    affine,
    itemsize,
    loads_of,
    walk,
)
from kevolve_core.languages.rounding import few_results
from kevolve_core.languages.triton.attention_space import attention_space
from kevolve_core.languages.triton.render.contraction import is_product
from kevolve_core.languages.triton.render.descriptors import described
from kevolve_core.languages.triton.render.nest import without_first
from kevolve_core.languages.triton.render.product import ProductSchedule
from kevolve_core.languages.triton.render.schedule import NestSchedule
from kevolve_core.languages.triton.render.tiling import (
    HELD_TILES,
    Tiling,
    divisible,
    expressions,
    holdable,
    moment_pairs,
    online_pairs,
    passes_of,
    tiling_of,
)
from kevolve_core.languages.triton.render.words import power_of_two
from kevolve_core.languages.windows import jammed, misaligned, overlapping, reach, unrolled
from kevolve_core.space import Constraint, Parameter, Space

__all__ = ["TritonFacts", "default_schedule", "schedule_space"]

_WHOLE_ROW = 16384  # columns up to which a row is held in registers by default; estimated
_WIDEST_ROW = 65536  # columns beyond which a row is never held in registers; estimated
_TILE = 2048  # elements of a tile of short rows; estimated
_ADDITIONS = 32  # additions of one running float32 sum beyond which it is kept in float64; estimated
_TILES_TO_SPLIT = 4  # tiles a processor from which it is busy without splitting their depth; `estimated`
_SUMS_PER_THREAD = 256  # of a product's tile: twice that and every GPU spills; estimated
_HELD_PER_THREAD = 96  # elements of a row a thread keeps across walks; estimated
_FAR = 4096  # elements of a tile whose points load elements that lie far from one another; estimated
_LOADED = 128  # elements that a thread loads for its points by default, at most; estimated
_TOGETHER = (4, 5, 3, 6, 2)  # neighbours to compute together by default, the best first; estimated
_PER_THREAD = 128  # elements of a tile a thread holds at most, before registers spill; estimated


@frozen
class TritonFacts:
    """What constraints need to know of a device.

    Args:
        processors: units that run programs side by side (multiprocessors, compute units).
        warp_size: lanes a warp.
        max_threads: threads of one program at most.
        shared_bytes: on-chip memory a program may use.
        float64: whether float64 is worth offering for sums.
        precisions: schemes of float32 products that the target compiles.
        coarse: those of them whose operands are rounded to fewer bits than float32 products need: the
            parity policy refuses them wherever its baseline multiplies in float32, so convolutions, which
            vendors' libraries may round as much, keep them.
        warps_along_rows: whether the warps of attention must lie along its rows, 16 each from the fifth on,
            since the target's compiler gets groups of four warps wrong that share rows.
        descriptors: whether hardware loads tiles through tensor descriptors.
        product_starts, half_starts, nest_starts: partial points to try first (`Space.starts`), of products
            of float32 and of half precision, and of nests that combine.
        attention_starts, half_attention_starts: likewise of attention in float32 and in half precision.
    """

    processors: int = 64
    warp_size: int = 32
    max_threads: int = 1024
    shared_bytes: int = 48 << 10
    float64: bool = True
    precisions: tuple[str, ...] = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")
    coarse: tuple[str, ...] = ("tf32", "bf16x3")
    warps_along_rows: bool = False
    descriptors: bool = False
    product_starts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    half_starts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    nest_starts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    attention_starts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    half_attention_starts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)


def default_schedule(nest: LoopNest, facts: TritonFacts | None = None) -> NestSchedule:
    """A schedule that is good on most targets: short rows several a program, long ones in steps."""
    facts = facts or TritonFacts()
    nest = unrolled(nest)
    tiling = tiling_of(nest)
    rows, cols = power_of_two(tiling.row_count), power_of_two(tiling.col_count)
    widest = facts.max_threads // facts.warp_size
    if axis := overlapping(nest):
        return _shared(nest, axis, rows, cols, widest)
    down, across = _contiguous(nest, tiling)
    if not tiling.combines:
        if cols >= _FAR and 4 * reach(nest) > 1024:
            return NestSchedule(cols=_FAR, num_warps=min(16, widest))
        c = min(cols, 1024 if not down else 32)
        r = max(1, min(rows, 1024 // c))
        return NestSchedule(rows=r, cols=c, num_warps=min(4, widest))
    if down > across and tiling.row_count > 1:
        r = min(rows, max(64, _TILE // cols))
        whole = min(cols, max(1, 4096 // r))
    else:
        whole = cols if cols <= _WHOLE_ROW else 4096
        r = max(1, min(rows, _TILE // whole))
    warps = min(power_of_two(max(1, r * whole // (16 * facts.warp_size))), 16, widest)
    few = few_results(tiling.col_count, tiling.row_count)
    long = facts.float64 and (cols // whole > _ADDITIONS or few)
    moments = whole < cols and bool(moment_pairs(nest))
    exact = facts.float64 and (moments or any(isinstance(s, Scan) for s in nest.body))
    return NestSchedule(
        rows=r,
        cols=whole,
        num_warps=warps,
        accumulate="fp64" if _sums(nest) and (long or exact) else "fp32",
        spread=_spread(nest, tiling, -(-tiling.row_count // r), whole, facts),
    )


def _shared(nest: LoopNest, axis: str, rows: int, cols: int, widest: int) -> NestSchedule:
    """A tile whose neighbouring points along ``axis`` share what they load: a run of columns, few points a
    thread, since each has all of its loads at once."""
    extent = nest.extent(axis)
    together = next((k for k in _TOGETHER if -(-extent // k) * k * 7 <= extent * 8), _TOGETHER[0])
    c = min(cols, 512)
    loads = {e for root in jammed(nest, axis, together).expressions() for e in loads_of(root)}
    points = 4 if 4 * len(loads) <= _LOADED and not misaligned(nest) else 2
    r = (
        1 if c >= 128 else max(1, min(rows, 128 * points // c))
    )  # one row: its indices and weights are scalars
    warps = power_of_two(max(1, r * c // (32 * points)))
    return NestSchedule(rows=r, cols=c, num_warps=min(warps, 8, widest), together=min(together, extent))


def _contiguous(nest: LoopNest, tiling: Tiling) -> tuple[int, int]:
    """Elements accessed with steps of one along the last row axis, and along the last column axis."""
    found = [0, 0]
    lasts = [axes[-1].name if axes else "" for axes in (tiling.rows, tiling.cols)]
    extents = {a.name: a.extent for a in nest.axes}
    for s in nest.body:
        accesses = [e for root in expressions(s) for e in walk(root) if isinstance(e, Load)]
        for access in (*accesses, *((s,) if isinstance(s, Store) else ())):
            form = affine(access.index[-1]) if access.index else None
            if form is None:
                continue
            for k, axis in enumerate(lasts):
                if form[1].get(axis) == 1:
                    walked = {a for i in access.index for a in (affine(i) or (0, {}))[1]}
                    found[k] += math.prod(extents.get(a, 1) for a in walked)
    return found[0], found[1]


def _spread(nest: LoopNest, tiling: Tiling, programs: int, cols: int, facts: TritonFacts) -> int:
    """Programs a row: enough to occupy the device where walks that only store are most of the work."""
    if programs >= facts.processors:
        return 1
    found = passes_of(nest, tiling)
    sizes = [(math.prod(nest.extent(a) for a in p.cols), divisible(p, nest)) for p in found]
    stored = max((n for n, d in sizes if d), default=0)
    repeated = sum(n for n, d in sizes if not d)
    if stored < 4 * cols or repeated * 8 > stored:
        return 1
    return power_of_two(min(-(-facts.processors // programs), stored // cols, 256))


def _sums(nest: LoopNest) -> bool:
    """Whether a float32 sum or product is in it, whose type can be chosen."""
    return any(
        isinstance(s, (Reduce, Scan, Contract))
        and s.accumulate == "float32"
        and (isinstance(s, Contract) or s.combiner in ("sum", "prod"))
        for s in nest.body
    )


def schedule_space(step: Step, facts: TritonFacts) -> Space:
    """Tunables of ``step`` in Triton, with constraints from ``facts``. The default point is legal."""
    if isinstance(step, Attention):
        return attention_space(step, facts)
    step = unrolled(step) if isinstance(step, LoopNest) else step
    nest = step.epilogue if isinstance(step, LibraryCall) else step
    parameters: list[Parameter] = []
    constraints: list[Constraint] = []
    starts: tuple[Mapping[str, Any], ...] = ()
    if isinstance(step, LibraryCall) and is_product(step):
        parameters, constraints = _product_parameters(step, facts)
        starts = _product_starts(step, facts)
    elif isinstance(step, LoopNest) and tiling_of(step).combines:
        starts = facts.nest_starts
    if nest is not None and isinstance(step, LibraryCall) and step.repeat:
        nest = without_first(nest)
    if nest is not None:
        more, held = _nest_parameters(nest, facts)
        parameters, constraints = parameters + more, constraints + held
    names = {p.name for p in parameters}
    starts = tuple({k: v for k, v in start.items() if k in names} for start in starts)
    return Space(tuple(parameters), tuple(constraints), starts)


def _product_parameters(call: LibraryCall, facts: TritonFacts) -> tuple[list[Parameter], list[Constraint]]:
    """Choices of a matrix product or convolution: the library, or a kernel with its tile."""
    size = _operand_bytes(call)
    tile = ProductSchedule()
    warps = tuple(w for w in (2, 4, 8, 16) if w * facts.warp_size <= facts.max_threads)
    parameters = [
        Parameter("implementation", ("library", "generated"), "library"),
        Parameter("tile_rows", (16, 32, 64, 128, 256), tile.rows),
        Parameter("tile_cols", (16, 32, 64, 128, 256), tile.cols),
        Parameter("tile_depth", (16, 32, 64, 128), tile.depth),
        Parameter("tile_group", (1, 4, 8, 16), tile.group),
        Parameter("tile_num_warps", warps, tile.num_warps),
        Parameter("tile_num_stages", (1, 2, 3, 4, 5), 2),
        Parameter("tile_programs", (0, facts.processors), 0),
        Parameter("tile_split", (1, 2, 4, 8, 16), 1),
    ]  # fmt: skip
    if size == 4 and len(facts.precisions) > 1:
        coarse = () if "convolution" in call.op else facts.coarse
        parameters.append(Parameter("tile_precision", facts.precisions, facts.precisions[0], coarse))
        parameters.append(Parameter("tile_chunk", (0, 2, 4, 8, 16), 0))
    matrices = () if "convolution" in call.op or not facts.descriptors else call.operands
    if any(described(o, size, tile.rows, tile.cols) is not None for o in matrices):
        parameters.append(Parameter("tile_loads", ("pointers", "descriptors"), "pointers"))
    defaults = {p.name: p.default for p in parameters}
    lanes = facts.warp_size
    results = _results(call)

    def shared(p: Mapping[str, Any]) -> bool:
        staged = (p["tile_rows"] + p["tile_cols"]) * p["tile_depth"] * size * max(1, p["tile_num_stages"] - 1)
        return bool(staged <= facts.shared_bytes)

    def registers(p: Mapping[str, Any]) -> bool:
        sums = p["tile_rows"] * p["tile_cols"] / (p["tile_num_warps"] * lanes)
        return bool(2 <= sums <= _SUMS_PER_THREAD)

    def only_generated(p: Mapping[str, Any]) -> bool:
        return p["implementation"] == "generated" or all(
            p[name] == value for name, value in defaults.items() if name.startswith("tile_")
        )

    def few_tiles(p: Mapping[str, Any]) -> bool:
        tiles = results / (p["tile_rows"] * p["tile_cols"])
        return bool(p["tile_split"] == 1 or tiles < _TILES_TO_SPLIT * facts.processors)

    return parameters, [
        Constraint("the depth is split only where there are few tiles", few_tiles),
        Constraint("the library has no tile to choose", only_generated),
        Constraint(f"operands in flight fit {facts.shared_bytes} bytes of on-chip memory", shared),
        Constraint(f"a thread keeps 2 to {_SUMS_PER_THREAD} sums", registers),
    ]


def _results(call: LibraryCall) -> int:
    """Elements of the result, as far as the call shows it; 0 where nothing does."""
    if call.epilogue is not None:
        return math.prod(a.extent for a in call.epilogue.axes)
    if call.op.startswith(("aten::mm", "aten::bmm")):
        left, right = (o.shape for o in call.operands)
        return math.prod(left[:-1]) * right[-1]
    return 0


def _known_bytes(call: LibraryCall) -> int | None:
    """Bytes of an element of the operands, as far as the epilogue shows it."""
    if call.epilogue is not None:
        for e in call.epilogue.expressions():
            for x in walk(e):
                if isinstance(x, Load) and x.buffer == call.output:
                    return itemsize(x.dtype)
    return None


def _operand_bytes(call: LibraryCall) -> int:
    """The same; 4 where nothing shows it."""
    return _known_bytes(call) or 4


def _product_starts(call: LibraryCall, facts: TritonFacts) -> tuple[Mapping[str, Any], ...]:
    """Starts for the operands' type; for both in turn where nothing shows it."""
    size = _known_bytes(call)
    if size is not None:
        return facts.product_starts if size == 4 else facts.half_starts
    pairs = itertools.zip_longest(facts.product_starts, facts.half_starts)
    return tuple(start for pair in pairs for start in pair if start is not None)


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(1 << k for k in range(low.bit_length() - 1, max(low, high).bit_length()))


def _with(choices: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    return tuple(sorted({*choices, value}))


def _nest_parameters(nest: LoopNest, facts: TritonFacts) -> tuple[list[Parameter], list[Constraint]]:
    tiling, default = tiling_of(nest), default_schedule(nest, facts)
    rows, cols = power_of_two(tiling.row_count), power_of_two(tiling.col_count)
    short = tiling.combines and 1 < tiling.col_count <= HELD_TILES
    row_choices = _with(_powers(1, min(rows, 1024 if short else 128)), default.rows)
    if short:
        col_choices = _with(_with((1,), cols), default.cols)
    elif tiling.combines:
        col_choices = _with(_powers(min(cols, 64), min(cols, 8192)), default.cols)
        col_choices = _with(col_choices, cols) if cols <= _WIDEST_ROW else col_choices
    else:
        col_choices = _with(_powers(min(cols, 16), min(cols, 4096)), default.cols)
    warps = tuple(w for w in (1, 2, 4, 8, 16, 32) if w * facts.warp_size <= facts.max_threads)
    parameters = [
        Parameter("rows", row_choices, default.rows),
        Parameter("cols", col_choices, default.cols),
        Parameter("num_warps", warps, default.num_warps),
    ]
    if axis := overlapping(nest):
        together = (k for k in (1, 2, 4, 8) if k <= nest.extent(axis))
        parameters.append(Parameter("together", _with(tuple(together), default.together), default.together))
    if tiling.combines:
        parameters += _looped(nest, tiling, default, facts)
    threads = facts.warp_size

    def holds(p: Mapping[str, Any]) -> bool:
        a_thread = p["rows"] * p["cols"] / (p["num_warps"] * threads)
        own = default.rows * default.cols / (default.num_warps * threads)
        return bool(min(1, own) <= a_thread <= max(_PER_THREAD, own))

    def keeps(p: Mapping[str, Any]) -> bool:
        if not p.get("held"):
            return True
        tiles = -(-tiling.col_count // p["cols"])
        a_thread = p["rows"] * p["cols"] * tiles / (p["num_warps"] * threads)
        once = not p.get("programs") and p.get("spread", 1) == 1
        return bool(1 < tiles <= HELD_TILES and a_thread <= _HELD_PER_THREAD and once)

    constraints = [
        Constraint(f"a tile has 1 to {_PER_THREAD} elements a thread", holds),
        Constraint(
            f"a row that is held has 2 to {HELD_TILES} tiles and {_HELD_PER_THREAD} elements a thread", keeps
        ),
    ]
    return parameters, constraints


def _looped(nest: LoopNest, tiling: Tiling, default: NestSchedule, facts: TritonFacts) -> list[Parameter]:
    """Choices of nests that combine: pipelining, persistence, the type of sums."""
    found = [Parameter("num_stages", (1, 2, 3, 4), default.num_stages)]
    if tiling.row_count > facts.processors:
        counts = tuple(k * facts.processors for k in (1, 2, 4, 8))
        found.append(Parameter("programs", (0, *counts), 0))
    if default.spread > 1:
        found.append(Parameter("spread", _with((1, 4, 16, 64), default.spread), default.spread))
    if _sums(nest) and facts.float64:
        found.append(Parameter("accumulate", ("fp32", "fp64"), default.accumulate))
    if online_pairs(nest) or moment_pairs(nest):
        found.append(Parameter("online", (True, False), True))
    if (tiling.col_count > 1024 or 1 < tiling.col_count <= HELD_TILES) and holdable(nest, tiling):
        found.append(Parameter("held", (False, True), False))
    return found
