"""Which library calls can be made for a range of the output's rows, between whose tiles an epilogue runs."""

from __future__ import annotations

from kevolve_core.ir import LibraryCall

__all__ = ["row_operands", "tileable"]

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
