"""Exclusive running sums and products, written as a concatenation.

Zeros in front of a running sum are the sum's own start: the scan of the tensor with zeros in front of it
gives both. So one nest reads and writes everything once, where the concatenation would be a second one, and
results begin where rows do. A target whose scans want loads without masks had better not: the concatenation
stays a choice of a `Partition`.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve

from kevolve_core.synth.algebra import Readers
from kevolve_core.synth.graph import Graph, Node, Ref, TensorType
from kevolve_core.synth.layout import contiguous

__all__ = ["EXCLUSIVE_SCANS", "JOINED", "PADDED", "PADDED_SCANS", "padded", "padded_scans"]

PADDED_SCANS = "padded_scans"  # the rewrite's name
#: A device's fact: what to try first for exclusive scans, `PADDED` (also without the fact) or `JOINED`.
EXCLUSIVE_SCANS, PADDED, JOINED = "exclusive_scans", "padded", "joined"

_NEUTRAL = {"aten.cumsum.default": 0, "aten.cumprod.default": 1}
_FILLS = {"aten.zeros": 0, "aten.zeros_like": 0, "aten.ones": 1, "aten.ones_like": 1}


def padded_scans(graph: Graph) -> Graph:
    """Note that ``graph`` has what `padded` changes; a `Partition` says whether it is."""
    return evolve(graph, padded=True) if padded(graph) != graph else graph


def padded(graph: Graph) -> Graph:
    """A running sum after zeros, or product after ones, as that of its operand after them; where it runs from
    the far end, before instead of after."""
    readers = Readers(graph)
    replaced = {n.name: found for n in graph.nodes if (found := _padded(n, readers)) is not None}
    if not replaced:
        return graph
    kept: list[Node] = []
    for n in graph.nodes:
        kept += replaced.get(n.name, [n])
    return graph.replaced({}, tuple(kept))


def _padded(n: Node, readers: Readers) -> list[Node] | None:
    found = _parts(n, readers)
    if found is None:
        return None
    scan, dim, before, after = found
    source = readers.argument(scan, 0)
    reverse = bool(scan.kwargs.get("reverse"))
    if source is None or not readers.only(scan) or scan.args[1] % len(n.tensor.shape) != dim:
        return None
    length, more = scan.tensor.shape[dim], after if reverse else before
    if (before if reverse else after) or not 0 < more <= length or scan.tensor.dtype != n.tensor.dtype:
        return None
    rank = len(n.tensor.shape)
    pad = [0, 0] * rank
    pad[2 * (rank - 1 - dim) : 2 * (rank - dim)] = [before, after]
    value = float(_NEUTRAL[scan.op]) if "float" in source.tensor.dtype else _NEUTRAL[scan.op]
    kind = TensorType(n.tensor.shape, source.tensor.dtype, contiguous(n.tensor.shape))
    name = f"{n.name}_operand"
    padded = Node(
        name, "aten.constant_pad_nd.default", (Ref(source.name), tuple(pad), value), type=kind, line=n.line
    )
    return [padded, Node(n.name, scan.op, (Ref(name), dim), scan.kwargs, n.type, line=n.line)]


def _parts(n: Node, readers: Readers) -> tuple[Node, int, int, int] | None:
    """The scan in ``n``, the dimension along which something neutral lies at its ends, and how much of it
    before and after."""
    if n.op == "aten.constant_pad_nd.default":
        scan, pads = readers.argument(n, 0), n.args[1]
        value = n.args[2] if len(n.args) > 2 else 0
        moved = [k for k in range(len(pads) // 2) if any(pads[2 * k : 2 * k + 2])]  # the last dimension first
        if scan is None or scan.op not in _NEUTRAL or value != _NEUTRAL[scan.op] or len(moved) != 1:
            return None
        before, after = pads[2 * moved[0] : 2 * moved[0] + 2]
        dim = len(n.tensor.shape) - 1 - moved[0]
        return (scan, dim, before, after) if before >= 0 and after >= 0 else None
    if n.op != "aten.cat.default" or len(n.args[0]) != 2:
        return None
    if not all(isinstance(r, Ref) for r in n.args[0]):
        return None
    one, two = (readers.nodes[r.name] for r in n.args[0])
    dim = (n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)) % len(n.tensor.shape)
    for found, other, last in ((one, two, True), (two, one, False)):
        if found.op in _NEUTRAL and _filled(other) == _NEUTRAL[found.op]:
            count = other.tensor.shape[dim] if len(other.tensor.shape) == len(n.tensor.shape) else 0
            return found, dim, 0 if last else count, count if last else 0
    return None


def _filled(n: Node) -> float | None:
    """The value that every element of ``n`` has."""
    name = n.op.rpartition(".")[0]
    if name in _FILLS:
        return _FILLS[name]
    filled: Sequence[object] = n.args if name in {"aten.full", "aten.full_like"} else ()
    return float(filled[1]) if len(filled) > 1 and isinstance(filled[1], (int, float)) else None
