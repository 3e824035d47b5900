"""Tiles of plain matrices that are loaded through tensor descriptors, which the hardware reads by itself.

A descriptor says where a matrix lies; a load names the first element of a tile of fixed shape. What is
outside of the matrix is 0, so there are no masks. Triton wants a base and strides that are multiples of 16
bytes, and an innermost stride of 1 (`triton.tools.tensor_descriptor.TensorDescriptor`). The host makes them
at each launch: descriptors that are made in a kernel need memory of their own.
"""

from __future__ import annotations

from attrs import frozen

from kevolve_core.ir import Operand

__all__ = ["DESCRIBED", "DESCRIBED_IMPORT", "Described", "described"]

_ALIGNED = 16  # bytes, as `TensorDescriptor` asserts
_MOST_BYTES = 1 << 40  # beyond any stride (CUDA driver API, cuTensorMapEncodeTiled: globalStrides)
_MOST = 1 << 31  # beyond any extent: coordinates are of 32 bits

#: What an entry imports whose kernels take descriptors, and the function that makes them.
DESCRIBED_IMPORT = "from triton.tools.tensor_descriptor import TensorDescriptor"
DESCRIBED = '''
def _described(tensor, shape, strides, block):
    """The descriptor of tiles of `block` of what lies at `tensor` with this shape and these strides; of a
    copy where the address is no multiple of 16, which views of the caller's may have."""
    if tensor.data_ptr() % 16:
        view = tensor.as_strided(shape, strides)
        tensor = torch.empty_strided(shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(view)
    return TensorDescriptor(tensor, shape, strides, block)
'''


@frozen
class Described:
    """A descriptor of a matrix, or of one for each point of a batch.

    Args:
        buffer: where it lies, ``offset`` elements from the beginning.
        shape, strides: of memory, the innermost dimension last.
        block: the tile, in the same order; 1 along the batch.
        swapped: whether rows of the operand are memory's innermost dimension.
    """

    buffer: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    block: tuple[int, ...]
    swapped: bool

    def load(self, variable: str, batch: str, row: str, col: str, sizes: tuple[str, str]) -> str:
        """The tile from ``row`` and ``col`` on as an expression; ``sizes`` name its rows and columns."""
        at, names = ((col, row), sizes[::-1]) if self.swapped else ((row, col), sizes)
        batched = len(self.shape) == 3
        text = f"{variable}.load([{', '.join([batch, *at] if batched else at)}])"
        text += f".reshape({', '.join(names)})" if batched else ""
        return f"{text}.T" if self.swapped else text


def described(operand: Operand, itemsize: int, rows: int, cols: int) -> Described | None:
    """The descriptor of ``operand``'s tiles of ``rows`` by ``cols``, or None where its layout allows none.
    ``operand`` is a matrix, or has a batch before it; ``itemsize`` are bytes of an element."""
    *lead, m, n = zip(operand.shape, operand.strides, strict=True)
    swapped = n[1] != 1 and m[1] == 1
    dims = [(*n, cols), (*m, rows)] if swapped else [(*m, rows), (*n, cols)]
    # A batch that stays where it is, or has one point, needs no coordinate.
    dims = [*((extent, stride, 1) for extent, stride in lead if extent > 1 and stride), *dims]
    outer = [stride * itemsize for _, stride, _ in dims[:-1]]
    if dims[-1][1] != 1 or any(x % _ALIGNED or not 0 < x < _MOST_BYTES for x in outer):
        return None
    if operand.offset * itemsize % _ALIGNED or any(not 0 < extent < _MOST for extent, _, _ in dims):
        return None
    shape, strides, block = zip(*dims, strict=True)
    return Described(operand.buffer, shape, strides, operand.offset, block, swapped)
