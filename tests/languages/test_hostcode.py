"""Library calls as Python text."""

from __future__ import annotations

from kevolve_core.ir import LibraryCall, Operand
from kevolve_core.languages.hostcode import call_text


def test_an_operator_that_reads_an_argument_called_out_is_called() -> None:
    op = "_scaled_dot_product_flash_attention_for_cpu_backward"
    operands = tuple(Operand(name, (2, 2, 9, 8), (144, 72, 8, 1), 0) for name in "gqkvol")
    call = LibraryCall("lib", f"aten::{op}", operands, "dq", {"dropout_p": 0.0, "is_causal": False})
    text = call_text(call, lambda _, operand: operand.buffer)
    assert text == f"torch.ops.aten.{op}.default(g, q, k, v, o, l, 0.0, False)"
