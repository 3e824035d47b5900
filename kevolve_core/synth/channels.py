"""Channels-last memory for convolutions that the target's library runs.

Libraries have their fastest convolutions for activations whose channels are the fastest dimension of memory.
So a program may keep what its convolutions read and write in that order, and everything between them:
pointwise nests, pooling, concatenations. Only the order of memory changes, never a logical index, so nothing
is transposed between two convolutions; what comes from outside is converted once, and what goes outside is
written in the reference's own order by the nest that computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from attrs import define, evolve, field

from kevolve_core.ir import Expr, Load, Op
from kevolve_core.synth.fuse import operand_bases
from kevolve_core.synth.graph import Graph, Node, Ref
from kevolve_core.synth.layout import contiguous
from kevolve_core.synth.lower import Def, Lowering, Value

__all__ = ["CHANNELS_LAST", "CONVERTS", "LAYOUTS", "ChannelsLast", "channels_last", "definite", "preferred"]

#: A device's fact: the orders of memory for convolutions that its tensor library has kernels for, the one to
#: try first being first: of ``channels_last`` and ``contiguous``. Without it there is no choice.
LAYOUTS = "convolution_layouts"
CHANNELS_LAST = "channels_last"
#: A device's fact: its library orders memory inside a call as fast as a program could outside of it, so that
#: a convolution with nothing around it gains nothing.
CONVERTS = "convolution_converts"

_CONVOLUTION = "aten.convolution.default"
_DTYPES = frozenset(["float32", "float16", "bfloat16"])  # libraries have no such kernels for float64
_COMPUTED = frozenset(["point", "reduce", "scan"])

#: Time channels-last over time in the default order, by kind of convolution: how PyTorch's own compiler
#: weighs the choice (torch/_inductor/graph.py, `decide_layout_opt`), measured there for inference on GPUs.
_GROUPED, _FEW, _NARROWING, _OTHER = 1.358, 0.783, 0.725, 0.823
_FEWEST = 4  # channels in and out below which a library pads more than it computes; estimated


def order_of(rank: int) -> tuple[int, ...]:
    """Dimensions from slowest to fastest: batch, space, channels."""
    return (0, *range(2, rank), 1)


def last_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense channels-last tensor; they are definite where a size is 1, too."""
    order = order_of(len(shape))
    dense = contiguous([shape[d] for d in order])
    return tuple(dense[order.index(d)] for d in range(len(shape)))


def definite(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """``strides`` of a view, and of one that lies channels-last those that say so where a size is 1, too:
    libraries look at them to choose."""
    if len(shape) not in (4, 5):
        return strides
    wanted = last_strides(shape)
    same = all(n == 1 or s == t for n, s, t in zip(shape, strides, wanted, strict=True))
    return wanted if same else strides


def channels_last(graph: Graph) -> Graph:
    """Name the convolutions whose activations may lie channels-last; a `Partition` says whether they do."""
    found = tuple(n.name for n in graph.nodes if n.op == _CONVOLUTION and _fits(n))
    return evolve(graph, channels_last=found)


def preferred(graph: Graph, converts: bool = False) -> bool:
    """Whether channels-last promises to be the faster order for the convolutions of ``graph`` together;
    ``converts`` is the device's fact `CONVERTS`."""
    if converts and all(n.op in {"input", "param", "constant", _CONVOLUTION} for n in graph.nodes):
        return False
    nodes = {n.name: n for n in graph.nodes}
    weighed = total = 0.0
    several = False
    for name in graph.channels_last:
        n = nodes[name]
        weight = nodes[n.args[1].name].tensor.shape
        transposed, groups = bool(n.args[6]), int(n.args[8])
        read = nodes[n.args[0].name].tensor
        taps = (read.size if transposed else n.tensor.size) * math.prod(weight[1:])
        channels, out = read.shape[1], n.tensor.shape[1]
        several = several or (min(channels, out) >= _FEWEST and groups == 1)
        total += taps
        weighed += taps * _time(channels, out, groups, weight)
    return several and weighed < total


def _time(channels: int, out: int, groups: int, weight: Sequence[int]) -> float:
    if groups > 1:
        return _GROUPED if channels > groups else 1.0
    if max(channels, out) <= 64:
        return _FEW
    return _NARROWING if 2 * out <= channels and weight[2] > 1 else _OTHER


def _fits(n: Node) -> bool:
    shape = n.tensor.shape
    if len(shape) not in (4, 5) or n.tensor.dtype not in _DTYPES or not isinstance(n.args[0], Ref):
        return False
    return n.tensor.size > 0 and (shape[1] > 1 or math.prod(shape[2:]) > 1)


@define
class ChannelsLast:
    """Which definitions of one program lie channels-last.

    Args:
        lowering: of the program.
        nodes: convolutions that may.
        view: (definition, load) where a value is a strided view of a definition's memory.
        insert: puts a new definition in front of a named one.
        orders: for each definition that does, its dimensions from slowest to fastest.
        outputs: definitions that results are views of: they keep the reference's order.
    """

    lowering: Lowering
    nodes: frozenset[str]
    view: Callable[[Value], tuple[str, Load] | None]
    insert: Callable[[str, Def], Value]
    orders: dict[str, tuple[int, ...]] = field(factory=dict)
    outputs: frozenset[str] = frozenset()
    _copies: dict[str, Value] = field(factory=dict)

    def is_convolution(self, d: Def) -> bool:
        """Whether ``d`` is the result of a convolution that runs channels-last."""
        return d.kind == "library" and d.node in self.nodes and len(d.shape) in (4, 5)

    def take_apart(self, results: Iterable[Value]) -> None:
        """Convolutions that a result is a view of get a definition of their own beside it, in the
        reference's order. A bias joins whatever reads the sum: libraries of such kernels add it in another
        pass over the result. Where a library reads it, there is no such reader."""
        defs = self.lowering.defs
        views = [self.view(v) for v in results]
        written = {found[0] for found in views if found is not None}
        read = {base for d in defs.values() if d.call is not None for base in operand_bases(d.call.args)}
        out: dict[str, Def] = {}
        for name, d in defs.items():
            bias = d.call.args.get("bias") if d.call is not None and self.is_convolution(d) else None
            apart = isinstance(bias, Value) and d.dtype == "float32" and name not in read
            if not self.is_convolution(d) or not (apart or name in written):
                out[name] = d
                continue
            inner = f"{name}_result"
            while inner in defs or inner in out:
                inner += "_"
            axes = self.lowering.own_axes(d.shape)
            value: Expr = Load(inner, axes, d.dtype)
            if apart:
                assert d.call is not None
                assert isinstance(bias, Value)
                d.call.args["bias"] = None
                value = Op("add", (value, bias.at((axes[1],))), d.dtype)
            out[inner] = evolve(d, name=inner)
            out[name] = Def(name, d.shape, d.dtype, "point", axes, value, node=d.node, label=d.label)
        defs.clear()
        defs.update(out)

    def choose(self, outputs: Iterable[str]) -> None:
        """Order what convolutions read and write, but for ``outputs``; activations that have another order
        are copied."""
        self.outputs = frozenset(outputs)
        kept = self._read_by_others()
        for d in list(self.lowering.defs.values()):
            if self.is_convolution(d) and d.name not in self.outputs and d.name not in kept:
                self.orders[d.name] = order_of(len(d.shape))
        for d in list(self.lowering.defs.values()):
            if self.is_convolution(d):
                assert d.call is not None
                d.call.args["input"] = self._ordered(d, d.call.args["input"], kept)

    def follow(self, memory: Collection[str], reads: Callable[[str], Iterable[str]]) -> None:
        """Order what lies in ``memory`` and is computed from channels-last definitions of its rank; ``reads``
        are the definitions that one reads."""
        kept = self._read_by_others()
        for name, d in self.lowering.defs.items():
            if name not in memory or name in self.orders or name in self.outputs or name in kept:
                continue
            pools = d.call is not None and _keeps_order(d.call.op) and not self._several(d)
            if len(d.shape) not in (4, 5) or not (d.kind in _COMPUTED or pools) or self._trivial(d.shape):
                continue
            order = order_of(len(d.shape))
            if any(self.orders.get(base) == order for base in reads(name)):
                self.orders[name] = order

    def _read_by_others(self) -> set[str]:
        """What library calls read that may rely on the order of memory."""
        found: set[str] = set()
        for d in self.lowering.defs.values():
            if d.call is not None and not _keeps_order(d.call.op):
                found |= set(operand_bases(d.call.args))
        return found

    def _ordered(self, d: Def, value: Value, kept: Collection[str]) -> Value:
        """``value``, which ``d`` convolves, as it is where it lies channels-last or can be made to; or a
        copy."""
        found = self.view(value)
        assert found is not None  # whoever calls has made definitions of what is no view
        base = found[0]
        source = self.lowering.defs[base]
        plain = self.lowering.own_axes(value.shape)
        whole = source.shape == value.shape and self._is_whole(value, source)
        if base in self.orders:
            return value
        if whole and (self._trivial(value.shape) or _lies_last(source)):
            return value
        if whole and source.kind in _COMPUTED and base not in self.outputs and base not in kept:
            self.orders[base] = order_of(len(value.shape))
            return value
        if whole and base in self._copies:
            return self._copies[base]
        made = Def(f"{d.node}_input", value.shape, value.dtype, "point", plain, value.at(plain))
        copied = self.insert(d.name, made)
        self.orders[copied.definition] = order_of(len(value.shape))
        if whole:
            self._copies[base] = copied
        return copied

    def _several(self, d: Def) -> bool:
        """Whether the call of ``d`` has more results."""
        return any(x.call is d.call and x is not d for x in self.lowering.defs.values())

    def _is_whole(self, value: Value, source: Def) -> bool:
        axes = self.lowering.own_axes(value.shape)
        load = value.at(axes)
        return isinstance(load, Load) and load.mask is None and load.index == axes and source.size > 0

    @staticmethod
    def _trivial(shape: Sequence[int]) -> bool:
        """Whether both orders are the same memory."""
        return shape[1] == 1 or math.prod(shape[2:]) == 1


def _lies_last(d: Def) -> bool:
    """Whether an input is given channels-last."""
    if d.strides is None:
        return False
    steps = zip(d.shape, d.strides, last_strides(d.shape), strict=True)
    return all(n == 1 or s == t for n, s, t in steps)


def _keeps_order(op: str) -> bool:
    """Whether a library operator computes the same in any order of memory, and returns what it is given."""
    return any(word in op for word in ("convolution", "pool", "upsample"))
