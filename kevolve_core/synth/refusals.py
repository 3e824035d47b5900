"""What cannot be captured: errors that name the operator and the user's source line."""

from __future__ import annotations

from types import FrameType
from typing import Any

from kevolve_core.errors import CaptureError

__all__ = ["depends", "refusal", "user_line"]

_LIBRARY_FOLDERS = ("/torch/", "/kevolve_core/")


def user_line(frame: FrameType | None) -> str:
    """File and line of the innermost frame that is the user's; empty for none."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not any(folder in file for folder in _LIBRARY_FOLDERS):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def refusal(error: Exception, line: str, where: str) -> CaptureError:
    """What ``error`` of a trace means, which was last at ``line``; ``where`` where there is none."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = type(error).__name__
    trace = error.__traceback__
    while trace is not None:
        line = _user_line_of(trace) or line
        trace = trace.tb_next
    if kind in {"GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException"}:
        return depends(text, line or where)
    if type(error).__module__.startswith("torch._dynamo"):
        return CaptureError(
            "operators that take functions (torch.cond, while_loop, scan) cannot be captured",
            got=f"{_higher_order(error)}: {text}",
            where=line or where,
            mend="use torch.where in place of torch.cond, a Python loop of fixed length in place of others",
        )
    return CaptureError(
        "the reference cannot be captured as an operator graph", got=f"{kind}: {text}", where=line or where
    )


def _higher_order(error: Exception) -> str:
    """The operator on functions that was called."""
    trace = error.__traceback__
    while trace is not None:
        if "/torch/_higher_order_ops/" in trace.tb_frame.f_code.co_filename:
            return str(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return "torch.compile"


def depends(got: str, where: str) -> CaptureError:
    """For operator ``got``, which hands values to Python or makes shapes from them."""
    return CaptureError(
        "the reference's shapes or control flow depend on the values of its inputs",
        got=got,
        where=where,
        mend="use torch.where or a mask in place of a Python condition, .item() or boolean indexing",
    )


def _user_line_of(trace: Any) -> str:
    file = trace.tb_frame.f_code.co_filename
    return "" if any(f in file for f in _LIBRARY_FOLDERS) else f"{file}:{trace.tb_lineno}"
