"""Attention as one function: a block of queries has its scores in the cache, never in memory.

A task takes queries of one problem. It packs that problem's keys and values once, then goes through its
queries a block at a time: scores by the kernel of `kevolve_cpu.render.product`, their softmax by a nest on
the block's rows in place, and the product with the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Attention,
    Axis,
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    Load,
    LoopNest,
    Op,
    Reduce,
    Statement,
    Store,
    Var,
    walk,
)
from kevolve_cpu.render.affine import Affine, analyse, offset_of
from kevolve_cpu.render.kinds import STORAGE
from kevolve_cpu.render.preamble import Preamble

__all__ = ["AttentionBlocks", "RowFunction", "attention_blocks", "fusible", "print_attention", "row_nests"]

_ROW = "r"  # the axis of problems and their queries together
_WORTH_PARTS = 256  # keys from which a softmax for a part of them is printed, too; estimated
_FEWEST = 4  # queries under which a block of rows is mostly empty; estimated
#: variables of the function, which no parameter may be called
_LOCALS = frozenset(
    ["task", "batch", "begin", "end", "first", "have", "seen", "reach", "after", "rest",
     "stretch", "left", "left_storage",
     "keys", "keys_storage", "values", "values_storage", "scores", "scores_storage", "result",
     "result_storage", "i", "k", "m", "n", "w"]
)  # fmt: skip


@frozen
class AttentionBlocks:
    """How attention is cut.

    Args:
        lanes, rows, vectors, depth: of the product's kernel, as in `kevolve_cpu.render.product.Blocks`.
        block: queries whose scores are in the cache at a time.
        chunks: tasks that the queries of a problem are divided among; each packs keys and values.
        skip_hidden: whether keys that no query of a block sees are left out of both products. Their values
            are not read, so an infinity or NaN among them does not reach the result by a weight of 0.
    """

    lanes: int = 16
    rows: int = 12
    vectors: int = 2
    depth: int = 384
    block: int = 48
    chunks: int = 1
    skip_hidden: bool = False


def fusible(a: Attention) -> str:
    """Empty where ``a`` can be printed as one function, else why not."""
    if a.rows.extent < _FEWEST:
        return "too few queries for a block"
    for what, given in (("queries", a.query), ("keys", a.key), ("values", a.value)):
        e, factor = _scaled(given)
        if not isinstance(e, Load) or e.mask is not None or (what == "values" and factor != 1):
            return f"{what} are computed on the way"
        if e.dtype != "float32":
            return f"{what} are {e.dtype}, and only float32 is multiplied in blocks"
        rest = {x for i in e.index for part, _ in analyse(i, {}).rest for x in walk(part)}
        if any(isinstance(x, Index) and x.axis != a.batch.name for x in rest):
            return f"{what} lie nowhere regular"
    used = {e.dtype for x in (a.score, *a.result.expressions()) for e in walk(x)}
    if "float64" in used:
        return "scores are float64"
    return ""


def _scaled(e: Expr) -> tuple[Expr, float]:
    """``e`` without the constants that it is multiplied by, and their product."""
    factor = 1.0
    while isinstance(e, Op) and e.name == "mul" and any(isinstance(x, Const) for x in e.args):
        factor *= next(float(x.value) for x in e.args if isinstance(x, Const))
        e = next((x for x in e.args if not isinstance(x, Const)), e.args[0])
    return e, factor


# --- the nests that work on rows ----------------------------------------------------------------------------


def _over_rows(e: Expr, a: Attention, stands: str, held: Buffer, inner: Axis, factor: float = 1.0) -> Expr:
    """``e`` with problems and queries as one axis, and what is loaded of ``stands`` at its row of ``held``,
    times ``factor``."""
    row: Expr = Index(_ROW)
    rows = Const(a.rows.extent, "int64")
    flat = Op("add", (Op("mul", (row, Const(inner.extent, "int64")), "int64"), Index(inner.name)), "int64")
    zeros = tuple(Const(0, "int64") for _ in held.shape[1:])
    by: dict[str, Expr] = {
        a.batch.name: Op("floordiv", (row, rows), "int64") if a.batch.extent > 1 else Const(0, "int64"),
        a.rows.name: Op("remainder", (row, rows), "int64") if a.batch.extent > 1 else row,
    }
    memo: dict[Expr, Expr] = {}

    def visit(x: Expr) -> Expr:
        if (found := memo.get(x)) is not None:
            return found
        out: Expr = x
        if isinstance(x, Index):
            out = by.get(x.axis, x)
        elif isinstance(x, Op):
            out = Op(x.name, tuple(map(visit, x.args)), x.dtype)
        elif isinstance(x, Load) and x.buffer == stands:
            out = Load(held.name, (*zeros, flat), held.dtype)
            if factor != 1.0:
                out = Op("mul", (out, Const(factor, held.dtype)), held.dtype)
            out = out if held.dtype == x.dtype else Op("cast", (out,), x.dtype)
        elif isinstance(x, Load):
            mask = None if x.mask is None else visit(x.mask)
            other = None if x.other is None else visit(x.other)
            out = Load(x.buffer, tuple(map(visit, x.index)), x.dtype, mask, other)
        memo[x] = out
        return out

    return visit(e)


def _banded(a: Attention, s: AttentionBlocks) -> bool:
    """Whether hidden keys are told from their positions, and no score of theirs is looked at."""
    return s.skip_hidden and a.unmasked is not None


def row_nests(
    a: Attention, buffers: Mapping[str, Buffer], s: AttentionBlocks
) -> tuple[tuple[LoopNest, ...], LoopNest | None]:
    """The softmax of a row of scores in place, for so many of its first keys as its own axis has, the fewest
    first; and what is stored of a row of results: None where that is the result as it is."""
    n = a.cols.extent
    several = _banded(a, s) and a.sees[1] is not None and n >= _WORTH_PARTS
    extents = dict.fromkeys(-(-n * k // 4) for k in ((1, 2, 3, 4) if several else (4,)))
    return tuple(_softmax(a, buffers, s, x) for x in extents), _result(a, buffers)


def _softmax(a: Attention, buffers: Mapping[str, Buffer], s: AttentionBlocks, extent: int) -> LoopNest:
    axis = Axis(_ROW, a.batch.extent * a.rows.extent)
    held = evolve(buffers[a.product], dtype="float32")
    factor = _scaled(a.query)[1] * _scaled(a.key)[1]  # of the operands: a score is scaled after it is summed
    given = a.unmasked if a.unmasked is not None and _banded(a, s) else a.score
    score = _over_rows(given, a, a.product, held, a.cols, factor)
    if score.dtype != "float32":
        score = Op("cast", (score,), "float32")
    top, total = Var("top", "float32"), Var("total", "float32")
    weight: Expr = Op("div", (Var("power", "float32"), total), "float32")
    if a.safe:
        hidden = Op("eq", (top, Const(float("-inf"), "float32")), "bool")
        weight = Op("where", (hidden, Const(0.0, "float32"), weight), "float32")
    flat = _over_rows(Load(a.product, (), "float32"), a, a.product, held, a.cols)
    assert isinstance(flat, Load)
    body: tuple[Statement, ...] = (
        Let("score", score),
        Reduce("top", "max", Var("score", "float32"), (a.cols.name,), "float32", "float32"),
        Let("power", Op("exp", (Op("sub", (Var("score", "float32"), top), "float32"),), "float32")),
        Reduce("total", "sum", Var("power", "float32"), (a.cols.name,), "float32", "float32"),
        Store(a.product, flat.index, weight),
    )
    name = f"{a.name}_softmax" + (f"_{extent}" if extent < a.cols.extent else "")
    return LoopNest(name, (axis, evolve(a.cols, extent=extent)), 1, body, a.covers, "normalization")


def _result(a: Attention, buffers: Mapping[str, Buffer]) -> LoopNest | None:
    if a.result.writes() == (a.output,):
        return None
    axis = Axis(_ROW, a.batch.extent * a.rows.extent)
    out = evolve(buffers[a.output], dtype="float32")

    def moved(s: Statement) -> Statement:
        assert isinstance(s, Let | Store)
        value = _over_rows(s.value, a, a.output, out, a.width)
        if isinstance(s, Let):
            return evolve(s, value=value)
        index = tuple(_over_rows(i, a, a.output, out, a.width) for i in s.index)
        return evolve(s, index=index, value=value)

    body = tuple(moved(s) for s in a.result.body)
    return LoopNest(f"{a.name}_result", (axis, a.width), 1, body, a.result.covers)


# --- the function -------------------------------------------------------------------------------------------


@frozen
class RowFunction:
    """A printed nest that takes a range of rows: its name, its parameters, and the extent of a row."""

    name: str
    buffers: tuple[str, ...]
    extent: int


def print_attention(
    a: Attention,
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str],
    s: AttentionBlocks,
    preamble: Preamble,
    function: str,
    softmax: Sequence[RowFunction],
    result: RowFunction | None,
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The text of ``static void function(…)``, the buffers it reads and those it writes, which are its
    parameters in this order."""
    names = {b: f"{n}_given" if n in _LOCALS else n for b, n in names.items()}
    operands = [e for e, _ in map(_scaled, (a.query, a.key, a.value)) if isinstance(e, Load)]
    inside = {a.product, a.output}
    writes = a.result.writes()
    more = (*(b for f in softmax for b in f.buffers), *(result.buffers if result is not None else ()))
    reads = tuple(
        b
        for b in dict.fromkeys((*(e.buffer for e in operands), *more))
        if b not in inside and b not in writes
    )
    vector = preamble.vector("f32", s.lanes)
    for helper in ("pack", "multiply", "panels"):
        preamble.need(helper)
    arguments = [f"const {STORAGE[buffers[b].dtype]} *__restrict {names[b]}" for b in reads]
    arguments += [f"{STORAGE[buffers[b].dtype]} *__restrict {names[b]}" for b in writes]
    query, key, value = (offset_of(buffers[e.buffer], e.index, {}) for e in operands)
    m, n, k, w = (x.extent for x in (a.rows, a.cols, a.depth, a.width))
    wide = s.vectors * s.lanes
    stretch = min(n, s.depth)
    block = _up(min(s.block, m), s.rows)
    chunk = _up(-(-m // s.chunks), block)
    chunks = -(-m // chunk)
    kernel = f"multiply<{vector}, {s.rows}, {s.vectors}>"
    high = a.sees[1] if s.skip_hidden else None
    seen = str(n) if high is None else f"m + have + {high} < {n} ? m + have + {high} : {n}"

    def at(e: Load, form: Affine, row: str, row_axis: str, col: str, col_axis: str) -> str:
        return _address(names[e.buffer], form, a, {row_axis: row, col_axis: col})

    q, ks, v = operands
    lines = [
        f"// attention: {', '.join(dict.fromkeys(a.covers)) or a.name}",
        f"// {a.batch.extent} x {m} x {n} x {k}, {block} queries at a time, in blocks of {s.rows} x {wide}",
        f"static void {function}({', '.join(arguments)}) {{",
        "#pragma omp parallel for schedule(dynamic)",
        f"    for (long task = 0; task < {a.batch.extent * chunks}; ++task) {{",
    ]
    body = [
        f"const long batch = task / {chunks}, begin = task % {chunks} * {chunk};",
        f"const long end = begin + {chunk} < {m} ? begin + {chunk} : {m};",
        f"const Panels<float> keys_storage({_up(n, wide) * k}L), values_storage({_up(w, wide) * n}L);",
        f"const Panels<float> scores_storage({block * n}L), left_storage({block * max(k, stretch)}L);",
        "float *const keys = keys_storage.data, *const values = values_storage.data;",
        "float *const scores = scores_storage.data, *const left = left_storage.data;",
    ]
    if result is not None:
        body += [
            f"const Panels<float> result_storage({block * w}L);",
            "float *const result = result_storage.data;",
        ]
    body += [
        f"for (long n = 0; n < {n}; n += {wide})",
        f"    pack<{wide}>({at(ks, key, 'n', a.cols.name, '0', a.depth.name)}, {key.stride(a.cols.name)}, "
        f"{key.stride(a.depth.name)}, {n} - n, {k}, keys + n * {k});",
        f"for (long w = 0; w < {w}; w += {wide})",
        f"    pack<{wide}>({at(v, value, '0', a.cols.name, 'w', a.width.name)}, "
        f"{value.stride(a.width.name)}, {value.stride(a.cols.name)}, {w} - w, {n}, values + w * {n});",
        f"for (long m = begin; m < end; m += {block}) {{",
        f"    const long have = end - m < {block} ? end - m : {block}, first = batch * {m} + m;",
        f"    const long seen = {seen};",
        f"    for (long i = 0; i < have; i += {s.rows})",
        f"        pack<{s.rows}>({at(q, query, '(m + i)', a.rows.name, '0', a.depth.name)}, "
        f"{query.stride(a.rows.name)}, {query.stride(a.depth.name)}, have - i, {k}, left + i * {k});",
        f"    for (long n = 0; n < seen; n += {wide})",
        f"        for (long i = 0; i < have; i += {s.rows})",
        f"            {kernel}(left + i * {k}, keys + n * {k}, {k}, scores + i * {n} + n, {n},",
        f"                have - i, {n} - n, false);",
    ]
    if _banded(a, s):
        body += _hidden(a, n)
    elif high is not None:
        body += [
            f"    const long reach = seen <= 0 ? 0 : (seen + {wide - 1}) / {wide} * {wide};",
            "    for (long i = 0; i < have; ++i)",
            f"        for (long n = reach; n < {n}; ++n) scores[i * {n} + n] = 0;",
        ]
    into = "result" if result is not None else f"{names[a.output]} + first * {w}L"
    for place, f in enumerate(softmax):
        given = [f"scores - first * {n}L" if b == a.product else names[b] for b in f.buffers]
        test = f"if (seen <= {f.extent}) " if place < len(softmax) - 1 else ""
        body.append(f"    {'else ' if place else ''}{test}{f.name}({', '.join(given)}, first, first + have);")
    body += [
        "    long k = 0;",
        "    do {",
        f"        const long rest = seen - k, stretch = rest < 0 ? 0 : rest < {stretch} ? rest : {stretch};",
        f"        for (long i = 0; i < have; i += {s.rows})",
        f"            pack<{s.rows}>(scores + i * {n} + k, {n}, 1, have - i, stretch, left + i * stretch);",
        f"        for (long w = 0; w < {w}; w += {wide})",
        f"            for (long i = 0; i < have; i += {s.rows})",
        f"                {kernel}(left + i * stretch, values + w * {n} + k * {wide}, stretch,",
        f"                    {into} + i * {w} + w, {w}, have - i, {w} - w, k > 0);",
        f"        k += {stretch};",
        "    } while (k < seen);",
    ]
    if result is not None:
        given = [f"result - first * {w}L" if b == a.output else names[b] for b in result.buffers]
        body.append(f"    {result.name}({', '.join(given)}, first, first + have);")
    body.append("}")
    lines += [*(f"        {x}" for x in body), "    }", "}"]
    return "\n".join(lines), reads, writes


def _hidden(a: Attention, n: int) -> list[str]:
    """Lines that give hidden keys of a block a score of -inf."""
    low, high = a.sees
    lines = ["    for (long i = 0; i < have; ++i) {"]
    if low is not None:
        lines.append(f"        for (long n = 0; n < m + i + {low} && n < {n}; ++n)")
        lines.append(f"            scores[i * {n} + n] = -__builtin_inff();")
    if high is not None:
        lines.append(f"        const long after = m + i + {high + 1};")
        lines.append(f"        for (long n = after < 0 ? 0 : after; n < {n}; ++n)")
        lines.append(f"            scores[i * {n} + n] = -__builtin_inff();")
    return [*lines, "    }"]


def _up(n: int, by: int) -> int:
    return -(-n // by) * by


def _address(name: str, form: Affine, a: Attention, at: Mapping[str, str]) -> str:
    """The address of an operand's element, its axes at the given positions."""
    terms = [name]
    for axis, k in form.terms.items():
        place = "batch" if axis == a.batch.name else at[axis]
        if place != "0":
            terms.append(place if k == 1 else f"{place} * {k}L")
    terms += [f"({_integer(e, a)}) * {k}L" for e, k in form.rest]
    if form.constant:
        terms.append(str(form.constant))
    return " + ".join(terms)


def _integer(e: Expr, a: Attention) -> str:
    """A position that depends on the problem alone."""
    if isinstance(e, Const):
        return str(int(e.value))
    if isinstance(e, Index) and e.axis == a.batch.name:
        return "batch"
    signs: dict[str, str] = {"add": "+", "sub": "-", "mul": "*", "floordiv": "/", "remainder": "%"}
    if isinstance(e, Op) and e.name in signs:
        left, right = (_integer(x, a) for x in e.args)
        return f"({left} {signs[e.name]} {right})"
    raise UnsupportedError("an operand of attention lies nowhere regular", where=a.name)


def attention_blocks(a: Attention, point: Mapping[str, Any]) -> AttentionBlocks:
    """``point`` (parameters named ``attention_…``) over the defaults."""
    given = {
        x.name: point[f"attention_{x.name}"]
        for x in AttentionBlocks.__attrs_attrs__
        if f"attention_{x.name}" in point
    }
    return AttentionBlocks(**{"skip_hidden": a.safe, **given})
