"""Convolutions of few channels a group: sums of products over windows."""

from __future__ import annotations

from collections.abc import Sequence

from kevolve_core.ir import COSTLY, Const, Expr, Load, Op, walk
from kevolve_core.synth.lower.core import DeclinedError, Lowering, Value, cast, lowers, wide
from kevolve_core.synth.lower.pointwise import op
from kevolve_core.synth.lower.pool import slid, windows
from kevolve_core.synth.lower.reductions import rounded
from kevolve_core.synth.lower.views import masked

__all__: list[str] = []


@lowers("convolution.default")
def _convolution(
    lowering: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    """Those that the graph names in ``windowed``; others are the library's. Products are added in float32
    or wider and rounded once, with the bias."""
    del transposed, output_padding  # of these there are none
    node = lowering.node
    assert node is not None
    if node.name not in lowering.windowed:
        raise DeclinedError
    each, kernel = weight.shape[1], weight.shape[2:]
    rank = len(kernel)
    w = windows(lowering, x, tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), rank)
    source = slid(lowering, x)
    if source.definition and _costly(lowering, source.definition):
        lowering.stored.add(source.definition)  # every window would compute it again
    dtype = wide(x.dtype)
    zero = cast(Const(0.0, "float64"), x.dtype)
    a_group = weight.shape[0] // groups
    ix = lowering.ix

    def product(i: tuple[Expr, ...]) -> Expr:
        batch, channel, places = i[0], i[1], i[2 : 2 + rank]
        inside, point = i[2 + rank], i[3 + rank :]
        at = w.position(lowering, places, point)
        read = ix.add(ix.scale(ix.floordiv(channel, a_group), each), inside)
        seen = masked(source, (batch, read, *at), w.inside(lowering, at), zero)
        return op("mul", cast(seen, dtype), cast(weight.at((channel, inside, *point)), dtype))

    shape = (x.shape[0], weight.shape[0], *w.out)
    products = Value((*shape, each, *kernel), dtype, product)
    over = tuple(range(2 + rank, 3 + 2 * rank))
    total = lowering.reduce(products, over, "sum", dtype, accumulate=dtype, suffix="sum")
    if bias is None:
        return rounded(lowering, total, x.dtype)

    def moved(i: tuple[Expr, ...]) -> Expr:
        return op("add", total.at(i), cast(bias.at((i[1],)), dtype))

    return rounded(lowering, lowering.point(shape, dtype, moved, "bias"), x.dtype)


def _costly(lowering: Lowering, name: str) -> bool:
    """Whether a pointwise definition takes a costly function of what lies in memory or is reduced."""
    stack, seen = [name], set[str]()
    while stack:
        d = lowering.defs[stack.pop()]
        if d.name in seen or d.kind != "point" or d.value is None or d.name in lowering.stored:
            continue
        seen.add(d.name)
        for e in walk(d.value):
            if isinstance(e, Op) and e.name in COSTLY:
                return True
            if isinstance(e, Load):
                stack.append(e.buffer)
    return False
