"""Library calls of a program: operands as strided views of buffers, recurrences as repeated products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Expr, Index, LibraryCall, Load, Operand, Single, address
from kevolve_core.synth.channels import definite
from kevolve_core.synth.fuse import Fusion, Group
from kevolve_core.synth.layout import Layout
from kevolve_core.synth.lower import Lowering, Value
from kevolve_core.synth.recurrent import OPERATORS, cell_of

__all__ = ["CallBuilder", "recurs", "tensor_parameters"]


@define
class CallBuilder:
    """Builds the library calls of one program.

    Args:
        lowering, fusion: of the program.
        layout: the buffer of a definition.
        in_memory: whether a definition lies in memory.
        temporary: makes a buffer of a name's stem, shape and dtype that holds one step's product.
        last: graph nodes of convolutions that run on channels-last memory.
    """

    lowering: Lowering
    fusion: Fusion
    layout: Callable[[str], Layout]
    in_memory: Callable[[str], bool]
    temporary: Callable[[str, tuple[int, ...], str], str]
    last: frozenset[str] = frozenset()

    def strided(
        self, base: str, load: Load, axes: Sequence[Expr], shape: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Shape, strides and offset, in elements, of a view of ``base``."""
        layout = self.layout(base)
        moved = Load(layout.buffer.name, layout.flat(self.lowering.ix, load.index), load.dtype)
        form = address(moved, layout.buffer)
        if form is None:
            raise UnsupportedError("a library operand is not a strided view", got=base)
        offset, by_axis = form
        strides: list[int] = []
        dense = 1
        for a, n in zip(reversed(axes), reversed(shape), strict=True):
            step = by_axis.get(a.axis, 0) if isinstance(a, Index) else dense
            strides.append(step)
            dense = step * n if isinstance(a, Index) else dense
        return tuple(shape), tuple(reversed(strides)), offset

    def call(self, group: Group) -> LibraryCall:
        first = self.fusion.defs[group.members[0]]
        call = first.call
        assert call is not None
        operands: list[Operand] = []

        def operand(value: Value) -> int:
            axes = self.lowering.own_axes(value.shape)
            load = value.at(axes)
            assert isinstance(load, Load)
            shape, strides, offset = self.strided(load.buffer, load, axes, value.shape)
            if first.node in self.last:
                strides = definite(shape, strides)
            operands.append(Operand(self.layout(load.buffer).buffer.name, shape, strides, offset))
            return len(operands) - 1

        attributes: dict[str, Any] = {}
        parameters = tensor_parameters(call.op)
        last = max((k for k, p in enumerate(parameters) if p in call.args), default=-1)
        for k, p in enumerate(parameters):
            value = call.args.get(p)
            if isinstance(value, Value):
                operand(value)
            elif isinstance(value, (list, tuple)):
                if k == last and all(isinstance(v, Value) for v in value):
                    for v in value:
                        operand(v)
                else:
                    attributes[p] = [None if v is None else {"operand": operand(v)} for v in value]
            elif k < last or p in call.args:
                attributes[p] = value  # None, or a number where the schema takes a tensor
        for key, value in call.args.items():
            if key not in parameters:
                attributes[key] = f"torch.{value}" if "dtype" in key and isinstance(value, str) else value
        results = [d for d in self.fusion.defs.values() if d.call is call]
        count = max(max(d.result for d in results) + 1, len(_schema(call.op).returns))
        names = ["" for _ in range(count)]
        for d in results:
            if self.in_memory(d.name):
                names[d.result] = self.layout(d.name).buffer.name
        several = count > 1
        output = next(n for n in names if n)
        return LibraryCall(
            f"lib_{first.node}", call.op, tuple(operands), output, attributes, None, (first.node,),
            tuple(names) if several else (), order=self.layout(first.name).order if not several else (),
        )  # fmt: skip

    def recurrence(self, group: Group) -> list[Single]:
        """A recurrence as a nest that puts the first state in place, and a repeated product with its cell."""
        d = self.fusion.defs[group.members[0]]
        call = d.call
        assert call is not None
        name = call.op.removeprefix("kevolve::")
        results = sorted((x for x in self.fusion.defs.values() if x.call is call), key=lambda x: x.result)
        states = [self.layout(x.name).buffer for x in results]
        steps, batch, hidden = states[0].shape[0] - 1, *states[0].shape[1:]
        width = OPERATORS[name] * hidden
        label = self.temporary(f"{d.node}_product", (batch, width), d.dtype)
        ix = self.lowering.ix

        def read(what: str, index: Sequence[Expr]) -> Expr:
            if what == "product":
                return Load(label, tuple(index), d.dtype)
            value = call.args[what]
            own = self.lowering.own_axes(value.shape)
            load = value.at(own)
            layout = self.layout(load.buffer)
            place = layout.spread(ix, layout.flat(ix, load.index))
            by = {a.axis: e for a, e in zip(own, index, strict=True) if isinstance(a, Index)}
            return Load(layout.buffer.name, tuple(ix.substitute(e, by) for e in place), load.dtype)

        for extent, axis in ((steps, "i0"), (batch, "i1"), (hidden, "j0")):
            ix.extents.setdefault(axis, extent)
        names = [b.name for b in states]
        cell = cell_of(
            name, read, (steps, batch, hidden), d.dtype, names, "bias" in call.args, (d.node,), d.node
        )
        weight = call.args["weight"]
        axes = self.lowering.own_axes((hidden, width))
        load = weight.at((axes[1], axes[0]))
        assert isinstance(load, Load)
        shape, strides, offset = self.strided(load.buffer, load, axes, (hidden, width))
        operands = (
            Operand(names[0], (batch, hidden), (hidden, 1), 0),
            Operand(self.layout(load.buffer).buffer.name, shape, strides, offset),
        )
        repeated = LibraryCall(
            f"lib_{d.node}", "aten::mm", operands, label, {}, cell.step, (d.node,), (), steps,
            (batch * hidden, 0),
        )  # fmt: skip
        return [cell.first, repeated]


def recurs(fusion: Fusion, group: Group) -> bool:
    """Whether ``group`` is a recurrent layer."""
    call = fusion.defs[group.members[0]].call
    return call is not None and call.op.startswith("kevolve::")


def tensor_parameters(op: str) -> tuple[str, ...]:
    """Names of the parameters of a library operator that take tensors or lists of them, in order."""
    return tuple(a.name for a in _schema(op).arguments if "Tensor" in str(a.type))


def _schema(op: str) -> Any:
    import torch

    packet, _, overload = op.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")._schema
