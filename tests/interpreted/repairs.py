"""Repairs of Triton 3.6's interpreter, without which it computes something else than Triton does.

* bfloat16 is held as its bits: a product of matrices multiplied the bits. Operands go to float32 first.
* A conversion of float32 to bfloat16 cut the last bits off; hardware rounds to the nearest, ties to even.
* Bounds of a loop that are tensors did not convert to integers with NumPy 2.4 and newer.
* A comparison of scalars was spread over a tile as numbers, which logical operators then refused.
* Precision schemes of float32 products that every GPU target has were refused; they are exact here.
"""

from __future__ import annotations

from typing import Any

_PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")


def repair() -> None:
    """Apply them to this process's Triton, once."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder, "repaired", False):
        return
    builder.repaired = True
    dot, cast, splat = builder.create_dot, builder.cast_impl, builder.create_splat
    patch = interpreter._patch_lang_tensor

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        return dot(self, widened(a), widened(b), d, precision, imprecise)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
            return cast(self, source, to)
        bits = np.ascontiguousarray(source.data).view(np.uint32).reshape(source.data.shape)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        kept = np.where(np.isnan(source.data), 0x7FC0, nearest).astype(np.uint16)
        return interpreter.TensorHandle(kept, tl.bfloat16)

    def create_splat(self: Any, to: Any, source: Any) -> Any:
        if np.asarray(source.data).dtype != np.bool_:
            return splat(self, to, source)
        return interpreter.TensorHandle(np.full(to.shape, np.asarray(source.data).item()), tl.int1)

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    builder.create_dot, builder.cast_impl, builder.create_splat = create_dot, cast_impl, create_splat
    interpreter._patch_lang_tensor = patch_tensor
    options = interpreter.interpreter_builder.options
    object.__setattr__(options, "allowed_dot_input_precisions", _PRECISIONS)
