"""The normalised operator graph between capture and lowering: frozen nodes without torch objects.

`Ref` stands for a node's result in another node's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from kevolve_core.model import freeze

__all__ = ["Dtype", "Graph", "Node", "Ref", "TensorType", "references", "replace_refs"]


@frozen
class Ref:
    """The result of node ``name``."""

    name: str


@frozen
class Dtype:
    """A torch dtype as an argument, by name."""

    name: str


@frozen
class TensorType:
    """Static type of a tensor: shape and strides in elements, dtype as torch names it."""

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        step = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != step:
                return False
            step *= n
        return True


@frozen
class Node:
    """One operator, input or constant.

    Args:
        name: unique; where it came from in the captured graph, so stable across cases.
        op: ``aten.add.Tensor``; ``input``, ``param`` or ``constant`` for placeholders; ``getitem``.
        args, kwargs: as ATen's schema has them, with `Ref` for tensors and `Dtype` for dtypes.
        type: of its result; a tuple where it has several.
        source: argument position or state_dict key of a placeholder.
        data: flat values of a constant.
        line: the user's source line, for messages.
    """

    name: str
    op: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(factory=dict, converter=freeze)
    type: TensorType | tuple[TensorType | None, ...] | None = None
    source: str = ""
    data: tuple[float | int | bool, ...] | None = None
    line: str = ""

    @property
    def tensor(self) -> TensorType:
        """The type of its single result."""
        if not isinstance(self.type, TensorType):
            raise TypeError(f"{self.name} ({self.op}) has not one tensor result")
        return self.type


@frozen
class Graph:
    """Nodes in topological order. ``outputs`` are the leaves of the reference's result, depth first, and
    ``structure`` that result with leaf numbers in place of tensors (see `kevolve_core.ir.Program`);
    ``rewrites`` names those of `kevolve_core.synth.simplify` that changed it, and ``channels_last`` the
    convolutions that `kevolve_core.synth.channels` may give another order of memory; ``attention`` is whether
    `kevolve_core.synth.online_attention` looks for attention in what it is lowered to, and ``in_place``
    whether `kevolve_core.synth.joins` may put concatenations together without copies; ``windowed`` are the
    convolutions that may be sums over windows (`kevolve_core.synth.windowed`)."""

    nodes: tuple[Node, ...]
    outputs: tuple[Ref, ...]
    structure: Any = 0
    rewrites: tuple[str, ...] = ()
    channels_last: tuple[str, ...] = ()
    attention: bool = False
    in_place: bool = False
    windowed: tuple[str, ...] = ()

    def node(self, name: str) -> Node:
        for n in self.nodes:
            if n.name == name:
                return n
        raise KeyError(name)

    def replaced(self, by: Mapping[str, str], nodes: tuple[Node, ...]) -> Graph:
        """Over ``nodes``, with every reference to a key of ``by`` turned into one to its value."""
        resolve = _resolver(by)
        return evolve(
            self,
            nodes=tuple(
                evolve(n, args=replace_refs(n.args, resolve), kwargs=replace_refs(dict(n.kwargs), resolve))
                for n in nodes
            ),
            outputs=tuple(resolve(r) for r in self.outputs),
        )


def _resolver(by: Mapping[str, str]) -> Callable[[Ref], Ref]:
    def resolve(ref: Ref) -> Ref:
        name = ref.name
        while name in by:
            name = by[name]
        return Ref(name)

    return resolve


def replace_refs(value: Any, by: Callable[[Ref], Any]) -> Any:
    """``value`` with every `Ref` in it replaced."""
    if isinstance(value, Ref):
        return by(value)
    if isinstance(value, (list, tuple)):
        return type(value)(replace_refs(v, by) for v in value)
    if isinstance(value, dict):
        return {k: replace_refs(v, by) for k, v in value.items()}
    return value


def references(node: Node) -> tuple[str, ...]:
    """Names of the nodes that ``node`` reads."""
    found: list[str] = []

    def note(ref: Ref) -> Ref:
        found.append(ref.name)
        return ref

    replace_refs(node.args, note)
    replace_refs(dict(node.kwargs), note)
    return tuple(found)
