"""`from_dlpack` on both sides: for PyTorch's meta tensors while host code is recorded, and for real ones.

Both kinds can say how they were described to the compiler, which names a compilation. Touches the DSL's
``cutlass.cute.runtime._Tensor``; tested with 4.8.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["Placeholder", "marked_class", "numeric_of"]


def numeric_of(dtype: torch.dtype) -> Any:
    """The DSL's type of a PyTorch type. Raises KeyError for one that it has not."""
    import cutlass

    return {
        torch.float64: cutlass.Float64, torch.float32: cutlass.Float32, torch.float16: cutlass.Float16,
        torch.bfloat16: cutlass.BFloat16, torch.int64: cutlass.Int64, torch.int32: cutlass.Int32,
        torch.int16: cutlass.Int16, torch.int8: cutlass.Int8, torch.uint8: cutlass.Uint8,
        torch.bool: cutlass.Boolean, torch.float8_e4m3fn: cutlass.Float8E4M3FN,
        torch.float8_e5m2: cutlass.Float8E5M2,
    }[dtype]  # fmt: skip


def _description(tensor: torch.Tensor, align: int | None, marks: list[Any]) -> list[Any]:
    return ["tensor", str(tensor.dtype), list(tensor.shape), list(tensor.stride()), align, marks]


class Placeholder:
    """Stands for ``from_dlpack(tensor)`` of a tensor without storage. `fake` is what the compiler takes."""

    def __init__(self, tensor: torch.Tensor, assumed_align: int | None = None, *_: Any, **__: Any) -> None:
        self._tensor, self._align = tensor, assumed_align
        self._marks: list[Any] = []
        self.shape, self.stride = tuple(tensor.shape), tuple(tensor.stride())
        self.element_type = numeric_of(tensor.dtype)

    def kevolve_description(self) -> list[Any]:
        return _description(self._tensor, self._align, self._marks)

    def mark_layout_dynamic(self, leading_dim: int | None = None) -> Placeholder:
        """As the DSL's: every size and stride is known at run time only, but the stride of one dimension."""
        self._marks.append(["layout", leading_dim])
        return self

    def mark_compact_shape_dynamic(
        self, mode: int, stride_order: tuple[int, ...] | None = None, divisibility: int = 1
    ) -> Placeholder:
        """As the DSL's: one size is known at run time only, and the strides that follow from it."""
        self._marks.append(
            ["compact", mode, None if stride_order is None else list(stride_order), divisibility]
        )
        return self

    def fake(self) -> Any:
        """The DSL's fake tensor of the same type."""
        from cutlass import cute
        from cutlass.cute.runtime import make_fake_tensor

        shape: list[Any] = list(self.shape)
        stride: list[Any] = list(self.stride)
        for kind, *how in self._marks:
            if kind == "layout":
                leading = how[0] if how[0] is not None else _leading(self.shape, self.stride)
                shape = [cute.sym_int32() for _ in shape]
                stride = [1 if d == leading else cute.sym_int64() for d in range(len(stride))]
            else:
                mode, divisibility = how[0], how[2]
                shape[mode] = cute.sym_int32(divisibility=divisibility)
                for d in range(len(stride)):
                    if self.stride[d] > self.stride[mode]:
                        stride[d] = cute.sym_int64(divisibility=self.stride[mode] * divisibility)
        align = self._align or self._tensor.element_size()
        return make_fake_tensor(self.element_type, tuple(shape), tuple(stride), assumed_align=align)


def _leading(shape: tuple[int, ...], stride: tuple[int, ...]) -> int | None:
    """The dimension whose stride stays 1: the only one of them, or the only one longer than 1."""
    ones = [d for d, s in enumerate(stride) if s == 1]
    if len(ones) > 1:
        ones = [d for d in ones if shape[d] > 1]
    return ones[0] if len(ones) == 1 else None


def marked_class(base: Any) -> Any:
    """The DSL's tensor class ``base`` whose instances also say how they were described."""

    class Marked(base):  # type: ignore[misc]
        def __init__(self, tensor: Any, assumed_align: int | None = None, *args: Any, **kwargs: Any) -> None:
            plain = tensor.detach() if isinstance(tensor, torch.Tensor) else tensor
            super().__init__(plain, assumed_align, *args, **kwargs)
            self._given = tensor
            self._marks: list[Any] = []

        def kevolve_description(self) -> list[Any]:
            return _description(self._given, self._assumed_align, self._marks)

        def mark_layout_dynamic(self, leading_dim: int | None = None) -> Any:
            self._marks.append(["layout", leading_dim])
            return super().mark_layout_dynamic(leading_dim)

        def mark_compact_shape_dynamic(
            self, mode: int, stride_order: tuple[int, ...] | None = None, divisibility: int = 1
        ) -> Any:
            order = None if stride_order is None else list(stride_order)
            self._marks.append(["compact", mode, order, divisibility])
            return super().mark_compact_shape_dynamic(mode, stride_order, divisibility)

    return Marked
