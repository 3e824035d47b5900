"""Schedule spaces of the CPU backend: what can be chosen for a step, and what a choice means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kevolve_core.ir import (
    Attention,
    Const,
    Contract,
    Expr,
    Index,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Reduce,
    Scan,
    Search,
    Step,
    Store,
    axes_of,
    itemsize,
    vars_of,
)
from kevolve_core.model import Device
from kevolve_core.space import Constraint, Parameter, Point, Space
from kevolve_cpu.render.affine import analyse
from kevolve_cpu.render.attention import fusible
from kevolve_cpu.render.choices import Schedule
from kevolve_cpu.render.library import tileable
from kevolve_cpu.render.online import Online, online_of, reuses_exponentials
from kevolve_cpu.render.product import Blocks, multiplies, sizes
from kevolve_cpu.render.scans import in_vectors
from kevolve_cpu.render.tidy import CHEAP, consumed, crosses, expressions, uses

__all__ = ["product_blocks", "resolve", "schedule_space"]

_TILES = (0, 64, 256, 1024, 4096, 16384, 65536)
_SMALL = 32768  # points below which starting threads costs more than it gives (about 5 µs); estimated
_COLUMNS = 1024  # of a tile over rows: whole pages of float32; narrower ones were no faster
_ACROSS = (
    64  # of a tile that loads run across: 64 to 16 were alike, 256 took twice as long (x.t() of 4096 x 1024)
)
_KEPT_BYTES = 1 << 20  # half the L2 cache of current server CPUs: beyond, computing again is no slower
_LEAST_LANES = 7  # points of an axis below which most lanes of a vector along it would idle; estimated
_SCANNED = (
    1 << 20
)  # points from which a scan waits for memory: 1.1 times as fast with prefetch, else 4 % slower
_BLOCK = 1024  # elements that stay in the L1 cache between two readings; 4096 were no faster
_SCORES = 1 << 18  # bytes of a block of scores: with its keys and values they stay in the L2 cache; estimated
_LINEAR = 64  # elements up to which comparing with all of them is worth trying; estimated


def _points(nest: LoopNest) -> int:
    return math.prod(a.extent for a in nest.axes)


def _unit_stride(nest: LoopNest) -> dict[str, int]:
    """Axis -> bytes moved by accesses whose last index steps by one along it. Those of a store count twice:
    lanes are gathered faster than they are scattered."""
    found: dict[str, int] = {}
    for s in nest.body:
        accesses = [(e.index, e.dtype, 1) for e in uses(expressions(s)) if isinstance(e, Load)]
        if isinstance(s, Store):
            accesses.append((s.index, s.value.dtype, 2))
        for index, dtype, times in accesses:
            if not index:
                continue
            form = analyse(index[-1], {})
            for axis, k in form.terms.items():
                if k == 1:
                    weight = (
                        times
                        * itemsize(dtype)
                        * math.prod(nest.extent(a) for e in index for a in analyse(e, {}).terms)
                    )
                    found[axis] = found.get(axis, 0) + weight
    return found


def vector_axes(nest: LoopNest, rowwise: bool = False) -> tuple[str, ...]:
    """Axes worth vectorising, best first; of a ``rowwise`` nest, which runs over ranges of its outermost
    axis, not that one."""
    first = nest.axes[0].name if rowwise and nest.axes else ""
    weights = {a: w for a, w in _unit_stride(nest).items() if nest.extent(a) > 1 and a != first}
    return tuple(sorted(weights, key=lambda a: (-weights[a], a)))


def lane_choices(nest: LoopNest, axis: str) -> tuple[int, ...]:
    """Elements a vector along ``axis`` may have. GCC splits vectors beyond the register for arithmetic and
    conversions, but turns comparisons and selections of them into scalar code, so 64-bit ones keep to 64
    bytes. Values that do not span ``axis`` are scalars and do not matter."""
    widest = 4
    spans = nest.spans()
    for s in nest.body:
        if axis and axis not in nest.span(s):
            continue
        if isinstance(s, Search) or (isinstance(s, Scan) and in_vectors(s, axis)):
            widest = 8
        if isinstance(s, Reduce) and s.combiner not in ("sum", "prod"):
            widest = max(widest, itemsize(s.accumulate))
        for e in uses(tuple(x for x in expressions(s))):
            if axis and not _spans(e, axis, spans):
                continue
            if isinstance(e, Op) and any(itemsize(a.dtype) == 8 and not isinstance(a, Const) for a in e.args):
                if e.name in ("add", "sub", "mul", "cast") and not _loads(e):
                    continue
                widest = 8
    return (4, 8) if widest == 8 else (4, 8, 16)


def _spans(e: Expr, axis: str, spans: Mapping[str, frozenset[str]]) -> bool:
    return axis in axes_of(e) or any(axis in spans[v] for v in vars_of(e))


def _loads(e: Op) -> bool:
    return any(not isinstance(x, (Op, Const, Index)) for x in uses((e,)))


def _inner_axes(nest: LoopNest) -> list[str]:
    taken = consumed(nest)
    sinks = [nest.span(s) for s in nest.body if isinstance(s, (Reduce, Contract, Scan, Store))]
    return [a.name for a in nest.inner_axes if a.name in taken or not all(a.name in span for span in sinks)]


def _default_axis(nest: LoopNest, axes: tuple[str, ...], inner: list[str]) -> str:
    """The axis to vectorise: inside a task, but across tasks where those inside are short (windows)."""
    long = [a for a in axes if nest.extent(a) >= _LEAST_LANES]
    for choice in (long, axes):
        found = next((a for a in choice if a in inner), choice[0] if choice else "")
        if found:
            return found
    return ""


def _nest_parameters(
    nest: LoopNest, cores: int, rowwise: bool = False
) -> tuple[list[Parameter], list[Constraint]]:
    axes = vector_axes(nest, rowwise)
    inner = _inner_axes(nest)
    default_axis = _default_axis(nest, axes, inner)
    lanes = lane_choices(nest, default_axis)
    pointwise = not inner
    parameters = [
        Parameter("vector_axis", (*axes, ""), default_axis),
        Parameter("lanes", lanes, lanes[-1]),
        Parameter("unroll", (1, 2, 4, 8), 2 if pointwise else 4),
    ]
    constraints: list[Constraint] = []
    tiled_axes = [a for a in axes if a not in inner]
    if tiled_axes:
        choices = tuple(t for t in _TILES if t or not pointwise)
        default = 16384 if pointwise else 0 if default_axis in inner else _COLUMNS
        if pointwise and crosses(nest, default_axis):
            default = _ACROSS
        parameters.append(Parameter("tile", choices, default if default in choices else choices[0]))
        if pointwise and default == _ACROSS and not rowwise:
            parameters.append(Parameter("transpose", (True, False), True))
        if not pointwise:
            constraints.append(
                Constraint(
                    "a tile is for a vector axis outside the reduction",
                    lambda p: p["vector_axis"] in tiled_axes or p["tile"] == 0,
                )
            )
    rows = math.prod(a.extent for a in nest.axes if a.name not in inner)
    parallel = ["outer", "none"] if rows > 1 else ["none"]
    if inner:
        parallel.insert(len(parallel) - 1, "inner")
    small = _points(nest) < _SMALL
    best = "none" if small else "inner" if inner and rows < cores else "outer" if rows > 1 else "none"
    parameters.append(Parameter("parallel", tuple(parallel), best))
    parameters.append(Parameter("rows", (0, 1, 4, 16, 64), 0))
    parameters.append(Parameter("threads", (0, *sorted({1, max(1, cores // 2)} - {cores})), 0))
    statements = [s for s in nest.body if isinstance(s, (Reduce, Store))]
    if inner and len(statements) > 1:
        pair = online_of(nest)
        block = _online_block(nest, pair, axes, inner)
        online = block > 0 and best != "inner" and default_axis == (pair.top.axes[0] if pair else "")
        parameters += [
            Parameter("fuse", (True, False), True),
            Parameter("keep", (False, True), not online and _worth_keeping(nest, inner, default_axis)),
            Parameter("prefetch", ("none", "last", "heavy", "far"), "far" if online else "heavy"),
        ]
        if pair is not None and pair.top.axes[0] in axes:
            axis = pair.top.axes[0]
            parameters.append(Parameter("online", (0, _BLOCK, 4 * _BLOCK), block if online else 0))
            constraints.append(
                Constraint(
                    "one pass for a maximum and a sum keeps nothing and is not split among threads",
                    lambda p: (
                        p["online"] == 0
                        or (p["vector_axis"] == axis and not p["keep"] and p["parallel"] != "inner")
                    ),
                )
            )
    elif scans := [s for s in nest.body if isinstance(s, Scan) and in_vectors(s, default_axis)]:
        ahead = "last" if scans[0].reverse else "far"
        usual = ahead if _points(nest) >= _SCANNED else "none"
        parameters.append(Parameter("prefetch", ("none", "last", "far"), usual))
    if any(isinstance(s, Store) and s.mode == "set" for s in nest.body):
        parameters.append(Parameter("stream", (False, True), _points(nest) >= 1 << 22))
    if any(isinstance(s, Search) for s in nest.body):
        parameters.append(Parameter("search", ("binary", "linear"), "binary"))
    constraints += [
        Constraint(
            "scalar code has one lane to unroll", lambda p: p["vector_axis"] != "" or p["unroll"] == 1
        ),
        Constraint(
            "threads take rows only where tasks are parallel",
            lambda p: p["parallel"] == "outer" or p["rows"] == 0,
        ),
    ]
    if not axes:
        parameters = [Parameter("unroll", (1,), 1) if p.name == "unroll" else p for p in parameters]
    return parameters, constraints


def _online_block(nest: LoopNest, pair: Online | None, axes: tuple[str, ...], inner: list[str]) -> int:
    """Elements a block of a maximum and a sum of exponentials in one pass, 0 where two are better: a short
    row stays in the cache, and where the exponentials are needed again, keeping them is better."""
    if pair is None or pair.top.axes[0] not in axes or nest.extent(pair.top.axes[0]) <= 2 * _BLOCK:
        return 0
    fits = 4 * math.prod(nest.extent(a) for a in inner) <= _KEPT_BYTES
    return 0 if fits and reuses_exponentials(nest, pair) else _BLOCK


def _worth_keeping(nest: LoopNest, inner: list[str], axis: str) -> bool:
    """Whether what several passes need is costly, and little enough to be read back from the cache."""
    points = math.prod(nest.extent(a) for a in inner)
    if axis and axis not in inner:
        points *= min(_COLUMNS, nest.extent(axis))
    return 4 * points <= _KEPT_BYTES and any(_costly(x) for s in nest.body for x in expressions(s))


def _costly(e: Any) -> bool:
    return any(isinstance(x, Op) and x.name not in CHEAP for x in uses((e,)))


def schedule_space(step: Step, device: Device | None, language: str = "cpp") -> Space:  # noqa: ARG001
    """Tunables of ``step``. A library call has those of its epilogue and ``tile_rows``: output rows a
    call (0: all at once), so that the epilogue reads them while they are in the cache."""
    facts: Mapping[str, Any] = device.facts if device is not None else {}
    cores = int(facts.get("cores", 2))
    if isinstance(step, Attention):
        return _attention_space(step, cores, int(facts.get("vector_bytes", 64)))
    nest = step.epilogue if isinstance(step, LibraryCall) else step
    parameters: list[Parameter] = []
    constraints: list[Constraint] = []
    if nest is not None:
        parameters, constraints = _nest_parameters(nest, cores, isinstance(step, LibraryCall))
    if isinstance(step, LibraryCall) and tileable(step):
        parameters.insert(0, Parameter("tile_rows", (0, 64, 128, 256, 512, 1024, 2048), 0))
    if isinstance(step, LibraryCall) and not multiplies(step):
        more, legal = _product_parameters(step, cores, int(facts.get("vector_bytes", 64)))
        parameters = [*more, *parameters]
        constraints += legal
    return Space(tuple(parameters), tuple(constraints))


def _product_parameters(
    call: LibraryCall, cores: int, vector_bytes: int
) -> tuple[list[Parameter], list[Constraint]]:
    """Tunables of a product: the library's, or generated in blocks. Either ignores the other's tunables: were
    they tied to their defaults, a uniform draw would nearly never be the library's."""
    batch, rows, _, _ = sizes(call)
    sums = 24 if vector_bytes == 64 else 12  # vectors of sums that leave room among 32 or 16 registers
    tasks = (48, 96, 192, 384)
    enough = [t for t in tasks if batch > 1 or -(-rows // t) >= cores]
    blocks = [
        Parameter("product_lanes", (4, 8, 16), min(16, max(4, vector_bytes // 4))),
        Parameter("product_rows", (4, 6, 8, 12), sums // 2),
        Parameter("product_vectors", (2, 3), 2),
        Parameter("product_depth", (96, 192, 384), 384),
        Parameter("product_task", tasks, enough[-1] if enough else tasks[0]),
    ]
    constraints = [
        Constraint(
            "the sums of a block fit the registers",
            lambda p: (
                p["product_rows"] * p["product_vectors"] <= sums and 4 * p["product_lanes"] <= vector_bytes
            ),
        ),
    ]
    return [Parameter("product", ("library", "generated"), "library"), *blocks], constraints


def _attention_space(a: Attention, cores: int, vector_bytes: int) -> Space:
    """Tunables of attention as one function; where it runs in parts they change nothing."""
    if fusible(a):
        return Space()
    sums = 24 if vector_bytes == 64 else 12
    blocks = (24, 48, 96, 192)
    cached = [b for b in blocks if 4 * b * a.cols.extent <= _SCORES]
    chunks = (1, 2, 4, 8, 16)
    enough = [c for c in chunks if a.batch.extent * c >= 2 * cores]
    parameters = [
        Parameter("attention_lanes", (4, 8, 16), min(16, max(4, vector_bytes // 4))),
        Parameter("attention_rows", (4, 6, 8, 12), sums // 2),
        Parameter("attention_vectors", (1, 2, 3), 2),
        Parameter("attention_depth", (96, 192, 384), 384),
        Parameter("attention_block", blocks, cached[-1] if cached else blocks[0]),
        Parameter("attention_chunks", chunks, enough[0] if enough else chunks[-1]),
    ]
    starts: tuple[Point, ...] = ()
    if a.sees != (None, None):
        parameters.append(Parameter("attention_skip_hidden", (False, True), a.safe))
        starts = ({"attention_skip_hidden": True},)
    fits = Constraint(
        "the sums of a block fit the registers",
        lambda p: (
            p["attention_rows"] * p["attention_vectors"] <= sums and 4 * p["attention_lanes"] <= vector_bytes
        ),
    )
    return Space(tuple(parameters), (fits,), starts)


def product_blocks(step: LibraryCall, point: Mapping[str, Any]) -> Blocks | None:
    """How the product of ``step`` is cut where ``point`` (perhaps of another case) says that it is
    generated."""
    if point.get("product") != "generated" or multiplies(step):
        return None
    more, _ = _product_parameters(step, 2, 64)
    chosen = {p.name: point[p.name] if point.get(p.name) in p.choices else p.default for p in more}
    return Blocks(**{name.removeprefix("product_"): n for name, n in chosen.items() if name != "product"})


def resolve(nest: LoopNest, point: Mapping[str, Any], rowwise: bool = False) -> Schedule:
    """The schedule that ``point`` (of `schedule_space`, perhaps of another case) means for ``nest``, an
    epilogue where it is ``rowwise``."""
    parameters, constraints = _nest_parameters(nest, 2, rowwise)
    space = Space(tuple(parameters), tuple(constraints))
    legal = space.repaired({**space.default(), **point})
    return Schedule(**legal)
