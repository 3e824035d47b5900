"""Prints attention as one kernel: scores live in registers, and the softmax runs along with the keys.

A program takes a block of queries and walks the keys, a block at a time, with the largest score so far, the
sum of exponentials by it, and the weighted sum of values; whenever the largest grows, what was summed shrinks
by the same factor (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from kevolve_core.ir import Attention, Axis, Buffer, Expr, Let, Load, LoopNest, Op, Store, walk
from kevolve_core.languages.triton.render.nest import Kernel
from kevolve_core.languages.triton.render.printer import Frame, Printer
from kevolve_core.languages.triton.render.scope import Scope, Text
from kevolve_core.languages.triton.render.tiling import Tiling, expressions, uses
from kevolve_core.languages.triton.render.words import TRITON_TYPES, Names, power_of_two

__all__ = ["AttentionSchedule", "attention_schedule", "operand_types", "padded", "print_attention"]

_HALVES = frozenset(["float16", "bfloat16"])
_BOTH = frozenset("RC")
_WORDS = (
    "tile", "batch", "first", "stop", "depth", "depth_mask", "depth_down", "depth_down_mask", "width",
    "width_mask", "col_down", "col_down_mask", "queries", "keys", "values", "scores", "score", "powers",
    "highest", "total", "sums", "top", "base", "kept",
)  # fmt: skip


@frozen
class AttentionSchedule:
    """Blocks and launch of attention.

    Args:
        block_m, block_n: queries a program takes, and keys a step, powers of two from 16.
        num_warps, num_stages: launch options.
        precision: how float32 operands are multiplied, as in products.
        skip_hidden: leave out blocks of keys that no query of the block sees. Their values are then not
            read, so an infinity or NaN among them does not reach the result by a weight of 0.
    """

    block_m: int = 64
    block_n: int = 64
    num_warps: int = 4
    num_stages: int = 2
    precision: str = "ieee"
    skip_hidden: bool = False


_FIELDS = tuple(a.name for a in AttentionSchedule.__attrs_attrs__)


def padded(axis: Axis) -> int:
    """Extent of a tile that holds all of ``axis``: a power of two that a matrix unit takes."""
    return max(16, power_of_two(axis.extent))


def attention_schedule(a: Attention, point: Mapping[str, Any]) -> AttentionSchedule:
    """``point`` cut to what ``a`` has. Hidden keys are skipped by default where PyTorch's own kernels, which
    a safe softmax stands for, do so too."""
    given = {name: point[name] for name in _FIELDS if name in point}
    s = AttentionSchedule(**{"skip_hidden": a.safe, **given})
    return evolve(s, block_m=min(s.block_m, padded(a.rows)), block_n=min(s.block_n, padded(a.cols)))


def _half(e: Expr) -> str:
    """The half-precision type that holds every value of ``e``, or ""."""
    if isinstance(e, Op) and e.name == "cast":
        return e.dtype if e.dtype in _HALVES else _half(e.args[0])
    return e.dtype if isinstance(e, Load) and e.dtype in _HALVES else ""


def operand_types(a: Attention) -> tuple[str, str]:
    """Types that the products of scores and with values are taken in: half precision where both operands are
    of it; weights are rounded to it only where the result is, as every fused kernel does."""
    scores = _half(a.query) if _half(a.query) == _half(a.key) else ""
    stored = {s.value.dtype for s in a.result.body if isinstance(s, Store)}
    values = _half(a.value) if stored <= _HALVES else ""
    return scores or "float32", values or "float32"


def _loads(*roots: Expr) -> set[str]:
    return {e.buffer for root in roots for e in walk(root) if isinstance(e, Load)}


def print_attention(
    a: Attention,
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str],
    s: AttentionSchedule,
    function: str,
    taken: Sequence[str] = (),
) -> Kernel:
    """The kernel of ``a``. ``names`` are the buffers' parameters, ``taken`` names it must not use. Raises
    UnsupportedError for what Triton cannot say."""
    reads = (_loads(a.query, a.key, a.value, a.score) | a.result.reads()) - {a.product, a.output}
    writes = a.result.writes()
    arguments = (*sorted(reads - set(writes)), *writes)
    names = {a.product: a.product, a.output: a.output, **names}
    # No score lies in memory, so the extent of that buffer says nothing about addresses.
    local = {**buffers, a.product: Buffer(a.product, (1,), "float32", "temp")}
    variables = Names([*taken, *(names[b] for b in arguments)])
    return _Attention(a, local, names, s, function, arguments, variables).kernel()


class _Attention:
    """One kernel in the making."""

    def __init__(
        self, a: Attention, buffers: Mapping[str, Buffer], names: Mapping[str, str], s: AttentionSchedule,
        function: str, arguments: tuple[str, ...], variables: Names,
    ) -> None:  # fmt: skip
        self.a, self.buffers, self.names, self.s = a, buffers, names, s
        self.function, self.arguments, self.variables = function, arguments, variables
        self.word = {w: variables.fresh(w) for w in _WORDS}
        self.body: list[str] = []
        self.step: list[str] = []
        self.row_mask = "row_mask" if a.rows.extent % s.block_m else ""
        self.col_mask = "col_mask" if a.cols.extent % s.block_n else ""
        self.depth_mask = "depth_mask" if a.depth.extent != padded(a.depth) else ""
        self.width_mask = "width_mask" if a.width.extent != padded(a.width) else ""
        w = self.word
        down = w["col_down_mask"] if self.col_mask else ""
        self.queries = self._printer(
            a.query, a.rows, "row", self.row_mask, a.depth, w["depth"], self._masked("depth")
        )
        self.keys = self._printer(
            a.key, a.depth, w["depth_down"], self._masked("depth_down"), a.cols, "col", self.col_mask
        )
        self.values = self._printer(
            a.value, a.width, w["width"], self._masked("width"), a.cols, w["col_down"], down
        )
        self.score = self._printer(a.score, a.rows, "row", self.row_mask, a.cols, "col", self.col_mask)
        self.score.held = {a.product: Text(w["scores"], "float32", _BOTH, True)}
        self.score.counts = uses([a.score], {})
        self.end = Printer(
            a.result, Tiling((a.rows,), (a.width,), True), buffers, names, variables, frozenset("R"),
            self.row_mask, 2, scalars=((w["batch"], (a.batch,)),),
        )  # fmt: skip
        self.printers = (self.queries, self.keys, self.values, self.score, self.end)
        self.wide = any(p.wide for p in self.printers)
        for p in self.printers:
            p.wide = self.wide

    def _masked(self, axis: str) -> str:
        """The variable that masks ``axis``, or "" where all of the tile exists."""
        return self.word[f"{axis}_mask"] if getattr(self, f"{axis.split('_')[0]}_mask") else ""

    def _printer(
        self, e: Expr, rows: Axis, row: str, row_mask: str, cols: Axis, col: str, col_mask: str
    ) -> Printer:
        """A printer of ``e``, of which what does not span ``cols`` is computed before the loop."""
        a = self.a
        nest = LoopNest(a.name, (a.batch, rows, cols), 1, (Let("value", e),))
        made = Printer(
            nest, Tiling((rows,), (cols,), True), self.buffers, self.names, self.variables, frozenset("R"),
            row_mask, 2, scalars=((self.word["batch"], (a.batch,)),), row=row,
        )  # fmt: skip
        made.frame = Frame((cols,), col, col_mask)
        return made

    def _scopes(self) -> Scope:
        """A block in the loop, within the kernel's; printers share lines and not what they know, since one
        index has one shape in each."""
        return Scope(Scope(None, self.body), self.step)

    def _long(self, source: str) -> str:
        return f"({source}).to(tl.int64)" if self.wide else source

    # --- tiles ----------------------------------------------------------------------------------------------

    def _tile(
        self, printer: Printer, e: Expr, dtype: str, name: str, scope: Scope, mask: str, shape: str
    ) -> str:
        """A tile of an operand as ``dtype``; positions outside of ``mask`` are 0."""
        inner = e
        while dtype != "float32" and isinstance(inner, Op) and inner.name == "cast":
            inner = inner.args[0]
        plain = isinstance(inner, Load) and inner.mask is None
        printer.raw = plain and dtype != "float32"
        text = printer.value(inner, scope)
        source = text.source
        if mask and not (plain and text.dims == _BOTH):
            source = f"tl.where({mask}, {source}, 0.0)"
        if dtype != "float32" and not (printer.raw and inner.dtype == dtype):
            source = f"{source if source.isidentifier() else f'({source})'}.to({TRITON_TYPES[dtype]})"
        if text.dims != _BOTH:
            source = f"tl.broadcast_to({source}, {shape})"
        if source.isidentifier():
            return source
        scope.lines.append(f"{self.word[name]} = {source}")
        return self.word[name]

    def _dot(self, left: str, right: str, dtype: str, more: str = "") -> str:
        scheme = f', input_precision="{self.s.precision}"' if dtype == "float32" else ""
        return f"tl.dot({left}, {right}{more}{scheme})"

    # --- the kernel -----------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        a, s, w = self.a, self.s, self.word
        tiles = -(-a.rows.extent // s.block_m)
        of_scores, of_values = operand_types(a)
        self._place(tiles)
        queries = self._tile(
            self.queries, a.query, of_scores, "queries", Scope(None, self.body), self._masked("depth"),
            "[ROWS, DEPTH]",
        )  # fmt: skip
        self.body += [
            f'{w["top"]} = tl.full([ROWS, 1], float("-inf"), tl.float32)',
            f"{w['total']} = tl.zeros([ROWS, 1], tl.float32)",
            f"{w['sums']} = tl.zeros([ROWS, WIDTH], tl.float32)",
        ]
        bounds = self._bounds()
        self._walk(queries, of_scores, of_values)
        Scope(None, self.body).block(f"for start in range({bounds}):", Scope(None, self.step))
        self._finish()
        constexprs = {
            "ROWS": s.block_m,
            "COLS": s.block_n,
            "DEPTH": padded(a.depth),
            "WIDTH": padded(a.width),
        }
        parameters = [*(self.names[b] for b in self.arguments), *(f"{x}: tl.constexpr" for x in constexprs)]
        sizes = " x ".join(str(x.extent) for x in (a.batch, a.rows, a.cols, a.depth))
        text = "\n".join([
            "@triton.jit", f"def {self.function}({', '.join(parameters)}):",
            f"    # attention: {', '.join(dict.fromkeys(a.covers)) or a.name}, {sizes}",
            *(f"    {x}" for x in self.body),
        ])  # fmt: skip
        helpers = tuple(dict.fromkeys(h for p in self.printers for h in p.helpers))
        return Kernel(
            self.function, text, self.arguments, constexprs, tiles * a.batch.extent,
            {"num_warps": s.num_warps, "num_stages": s.num_stages}, helpers,
        )  # fmt: skip

    def _place(self, tiles: int) -> None:
        """Which queries a program takes."""
        a, w, lines = self.a, self.word, self.body
        tile, first = w["tile"], w["first"]
        lines.append(f"{tile} = tl.program_id(0)")
        if a.batch.extent > 1:
            batch = f"{tile} // {tiles}" if tiles > 1 else tile
            lines.append(f"{w['batch']} = {self._long(batch)}")
        row = "tl.arange(0, ROWS)[:, None]"
        if tiles > 1:
            block = tile if a.batch.extent == 1 else f"{tile} % {tiles}"
            lines.append(f"{first} = {block} * ROWS")
            row = f"{first} + {row}"
        lines.append(f"row = {self._long(row)}")
        if self.row_mask:
            lines.append(f"row_mask = row < {a.rows.extent}")
        for name, axis, tile, at in (
            ("depth", a.depth, "DEPTH", "[None, :]"), ("depth_down", a.depth, "DEPTH", "[:, None]"),
            ("width", a.width, "WIDTH", "[None, :]"),
        ):  # fmt: skip
            lines.append(f"{w[name]} = {self._long(f'tl.arange(0, {tile}){at}')}")
            if mask := self._masked(name):
                lines.append(f"{mask} = {w[name]} < {axis.extent}")

    def _bounds(self) -> str:
        """Where the walk over keys begins and ends."""
        a, s, first = self.a, self.s, self.word["first"]
        n, (low, high) = a.cols.extent, a.sees if s.skip_hidden else (None, None)
        if a.rows.extent <= s.block_m:  # one block of queries, from 0
            begin = 0 if low is None else max(low, 0) // s.block_n * s.block_n
            return f"{begin}, {n if high is None else max(0, min(a.rows.extent + high, n))}, COLS"
        start, stop = "0", str(n)
        if low is not None and low + a.rows.extent > s.block_n:
            start = f"max({_moved(first, low)}, 0) // COLS * COLS"
        if high is not None and high < n - 1:
            stop = self.word["stop"]
            self.body.append(f"{stop} = min({_moved(f'{first} + ROWS', high)}, {n})")
        return f"{start}, {stop}, COLS"

    def _walk(self, queries: str, of_scores: str, of_values: str) -> None:
        """One block of keys."""
        a, w, lines = self.a, self.word, self.step
        n = a.cols.extent
        lines.append(f"col = {self._long('start + tl.arange(0, COLS)[None, :]')}")
        lines.append(f"{w['col_down']} = {self._long('start + tl.arange(0, COLS)[:, None]')}")
        if self.col_mask:
            lines += [f"col_mask = col < {n}", f"{w['col_down_mask']} = {w['col_down']} < {n}"]
        keys = self._tile(
            self.keys, a.key, of_scores, "keys", self._scopes(), self._masked("depth_down"), "[DEPTH, COLS]"
        )
        lines.append(f"{w['scores']} = {self._dot(queries, keys, of_scores)}")
        score = self.score.value(a.score, self._scopes()).source
        if self.col_mask:
            score = f'tl.where(col_mask, {score}, float("-inf"))'
        if not score.isidentifier():
            lines.append(f"{w['score']} = {score}")
            score = w["score"]
        scale = "1.4426950408889634"
        lines += [
            f"{w['highest']} = tl.maximum({w['top']}, tl.max({score}, 1, keep_dims=True))",
            f'{w["base"]} = tl.where({w["highest"]} == float("-inf"), 0.0, {w["highest"]})',
            f"{w['powers']} = tl.exp2(({score} - {w['base']}) * {scale})",
            f"{w['kept']} = tl.exp2(({w['top']} - {w['base']}) * {scale})",
            f"{w['total']} = {w['total']} * {w['kept']} + tl.sum({w['powers']}, 1, keep_dims=True)",
        ]
        values = self._tile(self.values, a.value, of_values, "values", self._scopes(), "", "[COLS, WIDTH]")
        weights = w["powers"] + (f".to({TRITON_TYPES[of_values]})" if of_values != "float32" else "")
        into = f", {w['sums']} * {w['kept']}"
        lines.append(f"{w['sums']} = {self._dot(weights, values, of_values, into)}")
        lines.append(f"{w['top']} = {w['highest']}")

    def _finish(self) -> None:
        """Divide by the sums of exponentials, and store."""
        a, w = self.a, self.word
        by = w["total"]
        if a.safe:
            by = f"tl.where({by} == 0, 1.0, {by})"
        self.body.append(f"{w['sums']} = {w['sums']} / {by}")
        end, scope = self.end, Scope(None, self.body)
        end.frame = Frame((a.width,), w["width"], self._masked("width"))
        end.held = {a.output: Text(w["sums"], "float32", _BOTH, True)}
        statements = {x.name: x for x in a.result.body if isinstance(x, Let)}
        stores = [x for x in a.result.body if isinstance(x, Store)]
        end.counts = uses([e for x in stores for e in expressions(x)], statements)
        for x in stores:
            end.store(x, scope)


def _moved(source: str, by: int) -> str:
    return f"{source} {'+' if by > 0 else '-'} {abs(by)}" if by else source
