"""Depthwise convolutions as windowed sums: loops that fuse with what comes before and after.

A convolution whose groups have few channels is no matrix product worth the name: it multiplies and adds as
often as it loads, so it runs at the speed of memory, or should. As a sum over windows
(`kevolve_core.synth.lower.convolution`) it is a nest like a pooling's. The library's call stays a choice of a
`Partition`.
"""

from __future__ import annotations

import math

from attrs import evolve

from kevolve_core.synth.graph import Graph, Node, Ref

__all__ = ["DEPTHWISE", "LIBRARY", "WINDOWED_CONVOLUTION", "WINDOWS", "windowed_convolution"]

WINDOWED_CONVOLUTION = "windowed_convolution"  # the rewrite's name
#: A device's fact: what to try first for the convolutions of this rewrite, `WINDOWS` or `LIBRARY`. Without it
#: windows are first.
DEPTHWISE, WINDOWS, LIBRARY = "depthwise_convolutions", "windows", "library"

_CONVOLUTION = "aten.convolution.default"
_DTYPES = frozenset(["float64", "float32", "float16", "bfloat16"])
#: Channels a group, and products a result, up to which a sum is cheaper than a matrix product; estimated.
_CHANNELS, _PRODUCTS = 4, 49


def windowed_convolution(graph: Graph) -> Graph:
    """Name the convolutions that may be windowed sums; a `Partition` says whether they are."""
    found = tuple(n.name for n in graph.nodes if n.op == _CONVOLUTION and _fits(n, graph))
    return evolve(graph, windowed=found) if found else graph


def _fits(n: Node, graph: Graph) -> bool:
    transposed, groups = bool(n.args[6]), int(n.args[8])
    if transposed or groups == 1 or n.tensor.dtype not in _DTYPES or not n.tensor.size:
        return False
    if not isinstance(n.args[0], Ref) or not isinstance(n.args[1], Ref):
        return False
    x, weight = (graph.node(r.name).tensor for r in n.args[:2])
    if len(x.shape) != len(weight.shape) or not x.size:
        return False
    return weight.shape[1] <= _CHANNELS and math.prod(weight.shape[1:]) <= _PRODUCTS
