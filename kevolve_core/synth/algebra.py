"""Named rewrites that change what is computed, not only how: products and convolutions whose result is only
summed, and batch normalisation by fixed statistics after a convolution. Each is exact in real arithmetic; the
precision policy judges what rounding makes of it. Half precision is left alone, where intermediate results
are rounded on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, evolve, field, frozen

from kevolve_core.synth.graph import Graph, Node, Ref, TensorType, references
from kevolve_core.synth.layout import contiguous

__all__ = ["Readers", "batch_norm_folding", "mean_of_convolution", "sums_of_products"]

_EXACT = frozenset(["float32", "float64"])
_SCALED = frozenset(["aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar"])
_SUMS = frozenset(["aten.sum.default", "aten.sum.dim_IntList"])
_MEANS = frozenset(["aten.mean.default", "aten.mean.dim"])
_VIEWS = frozenset(["aten.view.default", "aten._unsafe_view.default"])
_CONVOLUTION = "aten.convolution.default"
_FIXED_NORM = "aten._native_batch_norm_legit_no_training.default"
_BATCH_NORM = "aten.native_batch_norm.default"
_PRODUCTS = frozenset([_CONVOLUTION, "aten.mm.default", "aten.bmm.default", "aten.addmm.default"])
_LEAST_CHANNELS = 4  # of a convolution's result, below which summing windows first saves nothing; estimated
_FOLDED_SHARE = 4  # elements of the result a weight, at least, for folding to be worth a pass; estimated


@frozen
class _Reduction:
    """A sum or mean over ``dims`` of ``source``, which nobody else reads, after scalings by numbers, which
    commute with it."""

    node: Node
    source: Node
    dims: frozenset[int]
    scales: tuple[Node, ...]

    @property
    def is_mean(self) -> bool:
        return self.node.op in _MEANS


@define
class _Writer:
    """New nodes in place of node ``at``."""

    at: Node
    made: list[Node] = field(factory=list)

    def __call__(self, op: str, *args: Any, shape: Sequence[int]) -> Node:
        size = tuple(shape)
        kind = TensorType(size, self.at.tensor.dtype, contiguous(size))
        name = f"{self.at.name}_w{len(self.made)}"
        node = Node(
            name, op, tuple(Ref(a.name) if isinstance(a, Node) else a for a in args), type=kind,
            line=self.at.line,
        )  # fmt: skip
        self.made.append(node)
        return node

    def test(self, op: str, *args: Any, shape: Sequence[int]) -> Node:
        node = self(op, *args, shape=shape)
        self.made[-1] = evolve(node, type=evolve(node.tensor, dtype="bool"))
        return self.made[-1]

    def summed(self, x: Node, dims: Sequence[int]) -> Node:
        shape = [n for d, n in enumerate(x.tensor.shape) if d not in dims]
        return self("aten.sum.dim_IntList", x, tuple(dims), shape=shape)

    def product(self, a: Node, b: Node) -> Node:
        rank = max(len(a.tensor.shape), len(b.tensor.shape))
        shapes = [(1,) * (rank - len(n.tensor.shape)) + n.tensor.shape for n in (a, b)]
        return self("aten.mul.Tensor", a, b, shape=[max(pair) for pair in zip(*shapes, strict=True)])

    def scaled(self, x: Node, by: float) -> Node:
        return x if by == 1 else self("aten.mul.Tensor", x, by, shape=x.tensor.shape)

    def plus(self, a: Node, b: Node) -> Node:
        return self("aten.add.Tensor", a, b, shape=a.tensor.shape)

    def shaped(self, x: Node, shape: Sequence[int]) -> Node:
        if x.tensor.shape == tuple(shape):
            return x
        node = self("aten.reshape.default", x, tuple(shape), shape=shape)
        self.made[-1] = evolve(node, type=evolve(node.tensor, dtype=x.tensor.dtype))
        return self.made[-1]

    def finished(self, x: Node, reduction: _Reduction, count: int) -> list[Node]:
        """The nodes so far, ending in the reduction's own: divided for a mean, scaled as it was."""
        if reduction.is_mean:
            x = self("aten.div.Tensor", x, float(count), shape=x.tensor.shape)
        for scale in reversed(reduction.scales):
            x = self(scale.op, x, scale.args[1], shape=x.tensor.shape)
        last = Node(
            self.at.name, "aten.reshape.default", (Ref(x.name), self.at.tensor.shape), type=self.at.type,
            line=self.at.line,
        )  # fmt: skip
        return [*self.made, last]


class Readers:
    """Who reads what in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = {n.name: n for n in graph.nodes}
        self.by: dict[str, list[Node]] = {}
        self.outputs = {r.name for r in graph.outputs}
        for n in graph.nodes:
            for name in dict.fromkeys(references(n)):
                self.by.setdefault(name, []).append(n)

    def only(self, n: Node) -> bool:
        """Whether one node reads ``n`` and the result does not have it."""
        return len(self.by.get(n.name, ())) == 1 and n.name not in self.outputs

    def argument(self, n: Node, k: int) -> Node | None:
        value = n.args[k] if k < len(n.args) else None
        return self.nodes[value.name] if isinstance(value, Ref) else None

    def from_inputs(self, n: Node) -> bool:
        """Whether ``n`` is computed from inputs; else it is the reference's own."""
        stack, seen = [n.name], set[str]()
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack += references(self.nodes[name])
        return any(self.nodes[name].op == "input" for name in seen)

    def reduction(self, n: Node) -> _Reduction | None:
        """``n`` as a sum or mean, seen through scalings."""
        if n.op not in _SUMS | _MEANS or n.kwargs.get("dtype") is not None:
            return None
        source = self.argument(n, 0)
        if source is None or not isinstance(source.type, TensorType) or source.tensor.dtype not in _EXACT:
            return None
        rank = len(source.tensor.shape)
        dims = n.args[1] if len(n.args) > 1 else None
        over = frozenset(d % rank for d in dims) if dims else frozenset(range(rank))
        scales: list[Node] = []
        while source.op in _SCALED and isinstance(source.args[1], (int, float)) and self.only(source):
            inner = self.argument(source, 0)
            if inner is None or inner.tensor.dtype != source.tensor.dtype:
                return None
            scales.append(source)
            source = inner
        return _Reduction(n, source, over, tuple(scales)) if self.only(source) else None


def _rewritten(graph: Graph, change: Callable[[Node, Readers], list[Node] | None]) -> Graph:
    """``graph`` with every node for which ``change`` gives some replaced; the last keeps its name."""
    readers = Readers(graph)
    out: list[Node] = []
    changed = False
    for n in graph.nodes:
        found = change(n, readers)
        out += [n] if found is None else found
        changed = changed or found is not None
    return evolve(graph, nodes=tuple(out)) if changed else graph


def sums_of_products(graph: Graph) -> Graph:
    """A sum or mean of a matrix product over its rows or columns is a product with a summed factor."""
    return _rewritten(graph, _summed_product)


def _summed_product(n: Node, readers: Readers) -> list[Node] | None:
    found = readers.reduction(n)
    if found is None:
        return None
    source, dims = found.source, found.dims
    if source.op in _VIEWS:  # a linear layer on more than two dimensions
        inner, rank = readers.argument(source, 0), len(source.tensor.shape)
        if inner is None or not readers.only(inner) or inner.op not in _PRODUCTS:
            return None
        same = source.tensor.shape and inner.tensor.shape[-1:] == source.tensor.shape[-1:]
        if not same or dims not in ({rank - 1}, frozenset(range(rank))):
            return None
        dims = frozenset([1]) if dims == {rank - 1} else frozenset([0, 1])
        source = inner
    if source.op not in {"aten.mm.default", "aten.addmm.default"} or source.kwargs:
        return None
    biased = source.op == "aten.addmm.default"
    if len(source.args) != 2 + biased:
        return None
    a, b = readers.argument(source, biased), readers.argument(source, 1 + biased)
    bias = readers.argument(source, 0) if biased else None
    rows, columns = source.tensor.shape
    if a is None or b is None or (bias is not None and bias.tensor.shape != (columns,)):
        return None
    write = _Writer(n)
    if 1 in dims:
        total = write.summed(_by_sums(write, a, b, 1), [1])
        total = write.summed(total, [0]) if 0 in dims else total
    else:
        total = write.summed(_by_sums(write, b, a, 0), [0])
    if bias is not None:
        part = write.summed(bias, [0]) if 1 in dims else bias
        total = write.plus(total, write.scaled(part, float(rows) if 0 in dims else 1.0))
    return write.finished(total, found, math.prod((rows, columns)[d] for d in dims))


def _by_sums(write: _Writer, kept: Node, summed: Node, dim: int) -> Node:
    """Products of ``kept`` with the sums of ``summed`` over ``dim``. What an infinite element of ``kept``
    would have met adds up to NaN, unless all of it has one sign."""
    rest = summed.tensor.shape[1 - dim]
    sums = write.summed(summed, [dim])
    low = write("aten.amin.default", summed, (dim,), shape=[rest])
    high = write("aten.amax.default", summed, (dim,), shape=[rest])
    one_sign = write.test(
        "aten.logical_or.default",
        write.test("aten.gt.Scalar", low, 0, shape=[rest]),
        write.test("aten.lt.Scalar", high, 0, shape=[rest]),
        shape=[rest],
    )
    across = (rest,) if dim == 1 else (rest, 1)
    nothing = write("aten.mul.Tensor", kept, 0.0, shape=kept.tensor.shape)
    odd = write(
        "aten.where.ScalarSelf", write.shaped(one_sign, across), 0.0, nothing, shape=kept.tensor.shape
    )
    return write.plus(write.product(kept, write.shaped(sums, across)), odd)


def mean_of_convolution(graph: Graph) -> Graph:
    """A sum or mean of a convolution over all positions is a product of weights and sums over windows. Not of
    weights that are inputs: an infinite one would meet a sum, in place of elements of both signs."""
    return _rewritten(graph, _summed_convolution)


def _summed_convolution(n: Node, readers: Readers) -> list[Node] | None:
    found = readers.reduction(n)
    if found is None or found.source.op != _CONVOLUTION:
        return None
    conv = found.source
    x, weight, bias = (readers.argument(conv, k) for k in range(3))
    stride, padding, dilation, transposed, _, groups = conv.args[3:9]
    shape = conv.tensor.shape
    rank = len(shape) - 2
    if x is None or weight is None or groups != 1 or len(weight.tensor.shape) != len(shape):
        return None
    if readers.from_inputs(weight):
        return None
    channels = shape[1]
    if found.dims != frozenset(range(2, len(shape))) or channels < _LEAST_CHANNELS:
        return None
    many = _per_dimension(rank, stride, padding, dilation)
    kernel = weight.tensor.shape[2:]
    spatial = list(range(2, len(shape)))
    write = _Writer(n)
    if transposed:  # (in, out, …) to (out, in, …)
        order = (1, 0, *spatial)
        turned = [weight.tensor.shape[d] for d in order]
        weight = write("aten.permute.default", weight, order, shape=turned)
    depth = x.tensor.shape[1]
    points = math.prod(kernel)
    if transposed and not any(many[1]):  # every element meets every weight
        sums = write.shaped(write.summed(x, spatial), (shape[0], 1, depth, 1))
    else:
        windows = write(
            "kevolve.window_sums.default", x, kernel, *many, shape[2:], bool(transposed),
            shape=(x.tensor.shape[0], depth, *kernel),
        )  # fmt: skip
        sums = write.shaped(windows, (shape[0], 1, depth, points))
    weights = write.shaped(weight, (channels, depth, points))
    total = write.summed(write.product(sums, weights), [2, 3])
    count = math.prod(shape[2:])
    if bias is not None:
        total = write.plus(total, write.scaled(bias, float(count)))
    return write.finished(total, found, count)


def _per_dimension(rank: int, *values: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(v) * rank if len(v) == 1 else tuple(v) for v in values]


def batch_norm_folding(graph: Graph) -> Graph:
    """Batch normalisation by fixed statistics goes into the convolution before it, where nothing pointwise
    follows that would need a pass over the result anyway."""
    readers = Readers(graph)
    folded: dict[str, list[Node]] = {}
    by: dict[str, str] = {}
    for n in graph.nodes:
        found = _folded(n, readers)
        if found is not None:
            first = readers.by[n.name][0]
            folded[readers.nodes[n.args[0].name].name] = []
            folded[n.name] = found
            by[first.name] = found[-1].name
    if not folded:
        return graph
    out: list[Node] = []
    for n in graph.nodes:
        if n.name not in by:
            out += folded.get(n.name, [n])
    return graph.replaced(by, tuple(out))


def _folded(n: Node, readers: Readers) -> list[Node] | None:
    fixed = n.op == _FIXED_NORM or (n.op == _BATCH_NORM and n.args[5] is False)
    conv = readers.argument(n, 0) if fixed else None
    if conv is None or conv.op != _CONVOLUTION or not readers.only(conv) or conv.tensor.dtype not in _EXACT:
        return None
    uses = readers.by.get(n.name, [])
    if len(uses) != 1 or uses[0].op != "getitem" or uses[0].args[1] != 0:
        return None
    if any(r.op not in _PRODUCTS for r in readers.by.get(uses[0].name, [])):
        return None
    weight, old = readers.argument(conv, 1), readers.argument(conv, 2)
    slope, shift, mean, variance = (readers.argument(n, k) for k in range(1, 5))
    if weight is None or mean is None or variance is None:
        return None
    if weight.tensor.size * _FOLDED_SHARE > conv.tensor.size:
        return None
    transposed, groups = conv.args[6], conv.args[8]
    if transposed and groups != 1:
        return None
    write = _Writer(uses[0])
    channels = (conv.tensor.shape[1],)
    factor = write("aten.add.Tensor", variance, float(n.args[-1]), shape=channels)
    factor = write("aten.rsqrt.default", factor, shape=channels)
    factor = factor if slope is None else write.product(factor, slope)
    at = (1, *channels) if transposed else channels
    by = write.shaped(factor, (*at, *(1 for _ in weight.tensor.shape[len(at) :])))
    scaled = write("aten.mul.Tensor", weight, by, shape=weight.tensor.shape)
    off = mean if old is None else write("aten.sub.Tensor", mean, old, shape=channels)
    moved = write.product(off, factor)
    if shift is None:
        bias = write("aten.neg.default", moved, shape=channels)
    else:
        bias = write("aten.sub.Tensor", shift, moved, shape=channels)
    last = Node(
        f"{conv.name}_folded", _CONVOLUTION, (conv.args[0], Ref(scaled.name), Ref(bias.name), *conv.args[3:]),
        conv.kwargs, conv.type, line=conv.line,
    )  # fmt: skip
    return [*write.made, last]
