"""Named rewrites of the operator graph before lowering. Each is exact (those of `algebra` in real arithmetic)
and can be turned off by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from attrs import evolve

from kevolve_core.errors import ConfigError, suggest
from kevolve_core.synth.algebra import batch_norm_folding, mean_of_convolution, sums_of_products
from kevolve_core.synth.channels import channels_last
from kevolve_core.synth.graph import Dtype, Graph, Node, Ref, references, replace_refs
from kevolve_core.synth.joins import CAT_IN_PLACE, cat_in_place
from kevolve_core.synth.online_attention import online_attention
from kevolve_core.synth.windowed import WINDOWED_CONVOLUTION, windowed_convolution

__all__ = ["REWRITES", "simplified"]

_IDENTITIES = frozenset(
    ["aten.alias.default", "aten.detach.default", "aten.lift_fresh_copy.default", "aten.lift_fresh.default",
     "aten.lift.default", "aten.clone.default", "aten._to_copy.default", "aten.view.default",
     "aten.reshape.default", "aten.expand.default"]
)  # fmt: skip
_IMPURE = ("aten.rand", "aten.bernoulli", "aten.normal", "aten.copy_.")
_EXACT_WIDENING = {
    "bool": {"uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"},
    "uint8": {"int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"},
    "int8": {"int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"},
    "int16": {"int32", "int64", "float32", "float64"},
    "int32": {"int64", "float64"},
    "float16": {"float32", "float64"},
    "bfloat16": {"float32", "float64"},
    "float32": {"float64"},
}
_SCANS = frozenset(["aten.cumsum.default", "aten.cumprod.default"])
_TO_COPY = "aten._to_copy.default"
_DEFAULTS = ((), (1,), (1, 20))  # arguments of a softplus with its usual sharpness and threshold


def dead_code(graph: Graph) -> Graph:
    """Drop nodes whose results nobody reads; inputs and parameters stay."""
    live = {r.name for r in graph.outputs}
    kept: list[Node] = []
    for n in reversed(graph.nodes):
        if n.name in live or n.op in {"input", "param"}:
            kept.append(n)
            live.update(references(n))
    return graph.replaced({}, tuple(reversed(kept)))


def common_subexpressions(graph: Graph) -> Graph:
    """One node for nodes of equal operator and arguments (random operators excepted)."""
    by: dict[str, str] = {}
    seen: dict[str, str] = {}
    kept: list[Node] = []
    for n in graph.nodes:
        key = _key(n, by)
        if n.op in {"input", "param", "constant"} or n.op.startswith(_IMPURE):
            kept.append(n)
        elif key in seen:
            by[n.name] = seen[key]
        else:
            seen[key] = n.name
            kept.append(n)
    return graph.replaced(by, tuple(kept))


def _key(n: Node, by: dict[str, str]) -> str:
    def resolve(ref: Ref) -> Ref:
        name = ref.name
        while name in by:
            name = by[name]
        return Ref(name)

    return repr((n.op, replace_refs(n.args, resolve), sorted(replace_refs(dict(n.kwargs), resolve).items())))


def identities(graph: Graph) -> Graph:
    """Drop aliases, and clones and conversions that change neither values nor type nor strides (a library
    operator may care about those)."""
    types = {n.name: n.type for n in graph.nodes}
    by: dict[str, str] = {}
    kept: list[Node] = []
    for n in graph.nodes:
        first = n.args[0] if n.args else None
        if isinstance(first, Ref) and n.op in _IDENTITIES and types[first.name] == n.type:
            by[n.name] = first.name
        else:
            kept.append(n)
    return graph.replaced(by, tuple(kept))


def casts(graph: Graph) -> Graph:
    """A conversion of an exactly widened value converts the narrow one: f16 -> f32 -> f16 is nothing."""
    nodes = {n.name: n for n in graph.nodes}
    out: list[Node] = []
    by: dict[str, str] = {}
    for n in graph.nodes:
        inner = _cast_source(n, nodes)
        outer = _cast_source(inner, nodes) if inner is not None else None
        if n.op == _TO_COPY and inner is not None and inner.op == _TO_COPY and outer is not None:
            narrow, wide = outer.tensor.dtype, inner.tensor.dtype
            if wide == narrow or wide in _EXACT_WIDENING.get(narrow, ()):
                if n.tensor.dtype == narrow:
                    by[n.name] = outer.name
                    continue
                n = Node(
                    n.name, n.op, (Ref(outer.name),), {"dtype": Dtype(n.tensor.dtype)}, n.type, line=n.line
                )
        out.append(n)
        nodes[n.name] = n
    return graph.replaced(by, tuple(out))


def _cast_source(n: Node, nodes: dict[str, Node]) -> Node | None:
    if n.op != _TO_COPY or not isinstance(n.args[0], Ref):
        return None
    return nodes[n.args[0].name]


def cat_prefixes(graph: Graph) -> Graph:
    """A concatenation whose first tensors are those of an earlier one appends to that one: dense blocks
    concatenate all features so far once a layer."""
    earlier: dict[tuple[str, Any], str] = {}
    kept: list[Node] = []
    for n in graph.nodes:
        if n.op == "aten.cat.default" and all(isinstance(r, Ref) for r in n.args[0]):
            dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
            names = tuple(r.name for r in n.args[0])
            for k in range(len(names) - 1, 1, -1):
                if (found := earlier.get((repr(names[:k]), dim))) is not None:
                    n = evolve(n, args=((Ref(found), *n.args[0][k:]), dim), kwargs={})
                    break
            earlier.setdefault((repr(names), dim), n.name)
        kept.append(n)
    return graph.replaced({}, tuple(kept))


def reverse_scans(graph: Graph) -> Graph:
    """Running sums and products of a flipped tensor, flipped back, run from the far end."""
    nodes = {n.name: n for n in graph.nodes}
    kept: list[Node] = []
    for n in graph.nodes:
        scan = _argument(n, nodes) if n.op == "aten.flip.default" else None
        flip = _argument(scan, nodes) if scan is not None and scan.op in _SCANS and not scan.kwargs else None
        if scan is not None and flip is not None and flip.op == "aten.flip.default":
            rank = max(1, len(scan.tensor.shape))
            dims = [d % rank for d in n.args[1]]
            if dims == [d % rank for d in flip.args[1]] == [scan.args[1] % rank]:
                n = Node(
                    n.name, scan.op, (flip.args[0], scan.args[1]), {"reverse": True}, n.type, line=n.line
                )
        kept.append(n)
        nodes[n.name] = n
    return graph.replaced({}, tuple(kept))


def mish(graph: Graph) -> Graph:
    """x tanh(softplus(x)) written out is the operator of that name, which needs no logarithm."""
    nodes = {n.name: n for n in graph.nodes}
    kept: list[Node] = []
    for n in graph.nodes:
        if n.op == "aten.mul.Tensor" and len(n.args) == 2 and all(isinstance(a, Ref) for a in n.args):
            sides = [nodes[a.name] for a in n.args]
            for x, other in (sides, sides[::-1]):
                soft = _argument(other, nodes) if other.op == "aten.tanh.default" else None
                plain = soft is not None and soft.op == "aten.softplus.default" and soft.args[1:] in _DEFAULTS
                if plain and _argument(soft, nodes) is x and n.type == x.type:
                    n = Node(n.name, "aten.mish.default", (Ref(x.name),), {}, n.type, line=n.line)
                    break
        kept.append(n)
        nodes[n.name] = n
    return graph.replaced({}, tuple(kept))


def _argument(n: Node | None, nodes: dict[str, Node]) -> Node | None:
    first = n.args[0] if n is not None and n.args else None
    return nodes.get(first.name) if isinstance(first, Ref) else None


#: name -> rewrite, in the order they are applied.
REWRITES: dict[str, Callable[[Graph], Graph]] = {
    "identities": identities,
    "casts": casts,
    "common_subexpressions": common_subexpressions,
    "cat_prefixes": cat_prefixes,
    "reverse_scans": reverse_scans,
    "mish": mish,
    "sums_of_products": sums_of_products,
    "mean_of_convolution": mean_of_convolution,
    "batch_norm_folding": batch_norm_folding,
    "dead_code": dead_code,
    "channels_last": channels_last,
    "online_attention": online_attention,
    CAT_IN_PLACE: cat_in_place,
    WINDOWED_CONVOLUTION: windowed_convolution,
}


def simplified(graph: Graph, without: Collection[str] = ()) -> Graph:
    """``graph`` after every rewrite but those named in ``without``; it notes which changed it.

    Raises:
        ConfigError: there is no rewrite of a name in ``without``.
    """
    for name in without:
        if name not in REWRITES:
            raise ConfigError("there is no such rewrite", got=name, mend=suggest(name, REWRITES))
    applied: list[str] = []
    for name, rewrite in REWRITES.items():
        if name not in without:
            changed = rewrite(graph)
            if changed != graph:
                applied.append(name)
            graph = changed
    return evolve(graph, rewrites=tuple(applied))
