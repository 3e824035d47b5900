"""From the operator graph to definitions over index space: one lowering function an operator."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from kevolve_core.errors import KevolveError
from kevolve_core.synth.graph import Dtype, Graph, Node, Ref, TensorType, replace_refs
from kevolve_core.synth.lower import (
    convolution,
    gather,
    library,
    losses,
    normalize,
    pointwise,
    pool,
    reductions,
    resize,
    scatter,
    views,
)
from kevolve_core.synth.lower.core import TABLE, Call, DeclinedError, Def, Lowering, Value, lowers

__all__ = ["TABLE", "Call", "Def", "Lowered", "Lowering", "Value", "known", "lower", "lowers"]

_ = (
    convolution,
    gather,
    losses,
    normalize,
    pointwise,
    pool,
    reductions,
    resize,
    scatter,
    views,
)  # imported for what they register


def known(op: str) -> bool:
    """Whether the table has a lowering for ``op`` (``aten.gelu.default``)."""
    return op in TABLE


@frozen(eq=False)
class Lowered:
    """A lowered graph: its definitions, the values of its outputs, and which nodes had no lowering."""

    lowering: Lowering
    outputs: tuple[Value, ...]
    structure: Any
    opaque: tuple[str, ...]


def lower(graph: Graph) -> Lowered:
    """Lower every node of ``graph``.

    Raises:
        UnsupportedError: names the operator and the user's line.
    """
    lowering = Lowering(graph.windowed)
    values: dict[str, Any] = {}
    unknown: list[str] = []
    types = {n.name: n.type for n in graph.nodes}
    for node in graph.nodes:
        if node.op == "getitem":
            lowering.read.setdefault(node.args[0].name, set()).add(node.args[1])
    for node in graph.nodes:
        lowering.node = node
        if node.op in {"input", "param", "constant"}:
            values[node.name] = _leaf(lowering, node)
            continue

        def resolve(ref: Ref) -> Any:
            return values[ref.name]

        args = _plain(replace_refs(node.args, resolve))
        kwargs = _plain(replace_refs(dict(node.kwargs), resolve))
        if node.op == "getitem":
            values[node.name] = args[0][args[1]]
            continue
        rule = TABLE.get(node.op)
        try:
            try:
                if rule is None or _reads_empty(args) or _complex((node.type, args)):
                    raise DeclinedError
                values[node.name] = rule(lowering, *args, **kwargs)
            except DeclinedError:
                unknown.append(node.op)
                packed = _plain(replace_refs(node.args, lambda r: _as_strided(lowering, values, types, r)))
                values[node.name] = library.opaque(lowering, node, packed, kwargs)
        except KevolveError:
            raise
        except Exception as error:
            raise lowering.unsupported(f"no lowering for this use of the operator ({error})") from error
    lowering.node = None
    return Lowered(lowering, tuple(values[r.name] for r in graph.outputs), graph.structure, tuple(unknown))


def _as_strided(lowering: Lowering, values: dict[str, Any], types: dict[str, Any], ref: Ref) -> Any:
    """The value a library operator is to see: contiguous where the reference's was."""
    value, kind = values[ref.name], types[ref.name]
    if isinstance(value, Value) and isinstance(kind, TensorType) and kind.contiguous:
        return lowering.packed(value)
    return value


def _leaf(lowering: Lowering, node: Node) -> Value:
    kind: TensorType = node.tensor
    return lowering.add(
        Def(
            node.name, kind.shape, kind.dtype, node.op, lowering.own_axes(kind.shape),
            strides=kind.strides, source=node.source, data=node.data,
        )
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Dtype):
        return value.name
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _reads_empty(args: tuple[Any, ...]) -> bool:
    """An argument without elements: left to the library, loops over nothing have no position to load."""
    return any(isinstance(a, Value) and 0 in a.shape for a in args)


def _complex(value: Any) -> bool:
    """Whether a complex tensor is among the arguments or results: those are the library's alone."""
    if isinstance(value, (list, tuple)):
        return any(map(_complex, value))
    return isinstance(value, (Value, TensorType)) and value.dtype.startswith("complex")
