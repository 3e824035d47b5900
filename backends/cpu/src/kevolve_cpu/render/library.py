"""Prints library calls as Python: `torch.ops.aten` operators on strided views of the case's buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, LibraryCall, Operand

__all__ = ["call_text", "literal", "row_operands", "tileable", "view_text"]

#: operator -> operands whose first dimension is the output's first dimension (the rest are whole in
#: every tile)
_ROW_OPERANDS = {
    "mm": (0,),
    "addmm": (1,),
    "bmm": (0, 1),
    "linear": (0,),
    "convolution": (0,),
    "matmul": (0,),
}


def tileable(call: LibraryCall) -> bool:
    """Whether the call can be made for a range of the output's rows."""
    return call.epilogue is not None and not call.repeat and bool(row_operands(call))


def row_operands(call: LibraryCall) -> tuple[int, ...]:
    """Operands to cut along with the output's first dimension; empty where the operator is not known
    to allow it."""
    name = call.op.removeprefix("aten::").split(".")[0]
    rows = _ROW_OPERANDS.get(name, ())
    if any(i >= len(call.operands) or not call.operands[i].shape for i in rows):
        return ()
    if len({call.operands[i].shape[0] for i in rows}) > 1:
        return ()
    if name == "matmul" and any(len(o.shape) != 2 for o in call.operands):
        return ()
    if name == "addmm" and len(call.operands[0].shape) == 2 and call.operands[0].shape[0] > 1:
        rows = (0, *rows)
    return rows


def literal(value: Any) -> str:
    """Python text of an attribute or a structure."""
    if isinstance(value, float) and value != value:
        return 'float("nan")'
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if isinstance(value, str) and value.startswith("torch."):
        return value
    if isinstance(value, (list, tuple)):
        inside = ", ".join(literal(v) for v in value)
        return (
            f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
        )
    return repr(value)


def _named_operands(call: LibraryCall) -> set[int]:
    """Operands that an attribute refers to."""
    lists = [v for v in call.attributes.values() if isinstance(v, (list, tuple))]
    return {x["operand"] for v in lists for x in v if isinstance(x, Mapping)}


def _attribute(value: Any, call: LibraryCall, view: Callable[[int, Operand], str]) -> str:
    """Python text of an attribute; ``{"operand": k}`` in a list stands for a tensor."""
    if isinstance(value, (list, tuple)) and any(isinstance(x, Mapping) for x in value):
        parts = [
            view(x["operand"], call.operands[x["operand"]]) if isinstance(x, Mapping) else literal(x)
            for x in value
        ]
        return f"[{', '.join(parts)}]"
    return literal(value)


def _schema(call: LibraryCall) -> tuple[str, Any]:
    """The overload's Python name and its schema."""
    import torch

    name = call.op.removeprefix("aten::")
    packet_name, _, overload = name.partition(".")
    packet = getattr(torch.ops.aten, packet_name, None)
    if packet is None:
        raise UnsupportedError(f"PyTorch has no operator {call.op}", where=f"step {call.name}")
    overloads = [overload] if overload else sorted(packet.overloads(), key=lambda o: o != "default")
    for candidate in overloads:
        schema = getattr(packet, candidate)._schema
        known = {a.name for a in schema.arguments}
        if set(call.attributes) <= known and "out" not in known:
            return f"{packet_name}.{candidate}", schema
    raise UnsupportedError(
        f"no overload of {call.op} takes {sorted(call.attributes)}", where=f"step {call.name}"
    )


def call_text(call: LibraryCall, view: Callable[[int, Operand], str], out: str = "") -> str:
    """The call as a Python expression; ``view`` gives the text of an operand. With ``out`` the out
    variant where there is one, else ``out`` is copied into."""
    import torch

    name, schema = _schema(call)
    named = _named_operands(call)
    operands = [(i, o) for i, o in enumerate(call.operands) if i not in named]
    arguments: list[str] = []
    positional = True
    for a in schema.arguments:
        if a.name in call.attributes:
            text = _attribute(call.attributes[a.name], call, view)
        elif "Tensor" in str(a.type) and operands:
            if "List[" in str(a.type):
                text = "[" + ", ".join(view(i, o) for i, o in operands) + "]"
                operands = []
            else:
                text = view(*operands.pop(0))
        else:
            positional = False
            continue
        arguments.append(text if positional and not a.kwarg_only else f"{a.name}={text}")
    if operands:
        raise UnsupportedError(f"{call.op} takes fewer tensors than it is given", where=f"step {call.name}")
    plain = f"torch.ops.aten.{name}({', '.join(arguments)})"
    if not out:
        return plain
    packet = getattr(torch.ops.aten, name.split(".")[0])
    if name.endswith(".default") and "out" in packet.overloads():
        inside = ", ".join([*arguments, f"out={out}"])
        return f"torch.ops.aten.{name.split('.')[0]}.out({inside})"
    return f"{out}.copy_({plain})"


def view_text(operand: Operand, buffers: Mapping[str, Buffer], variable: str) -> str:
    """The operand as a view of its buffer's tensor."""
    b = buffers[operand.buffer]
    if operand.shape == b.shape and operand.strides == b.stride and operand.offset == 0:
        return variable
    offset = (
        f", {operand.offset} + {variable}.storage_offset()"
        if operand.offset
        else f", {variable}.storage_offset()"
    )
    return f"{variable}.as_strided({literal(operand.shape)}, {literal(operand.strides)}{offset})"
