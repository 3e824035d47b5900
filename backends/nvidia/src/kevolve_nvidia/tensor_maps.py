"""Tensor maps: what a kernel of compute capability 9.0 or newer is given of a matrix, for its copy engine.

A map is 128 bytes among a kernel's parameters. The driver makes it, in memory of an alignment that objects of
cuda-bindings have by chance only; so its function is called directly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kevolve_nvidia.driver import api, checked

__all__ = ["TensorMap", "tensor_map"]

_ALIGNED = 128  # alignof(CUtensorMap) since CUDA 13; 64 before
_SINCE = 12000  # CUDA whose interface is asked for: the first with `cuTensorMapEncodeTiled`
_ENCODE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p,
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
)  # fmt: skip


class TensorMap(ctypes.Structure):
    """A ``CUtensorMap``."""

    _fields_ = (("opaque", ctypes.c_uint64 * 16),)


def tensor_map(
    address: int,
    swizzle: int,
    element_bytes: int,
    element_type: int,
    block: Sequence[int],
    shape: Sequence[int],
    strides: Sequence[int],
    padding: int,
) -> TensorMap:
    """A map of a strided array's tiles, made once for one place and layout.

    Args:
        address: of the array, a multiple of 16.
        swizzle, element_type: as ``CUtensorMapSwizzle`` and ``CUtensorMapDataType`` number them.
        element_bytes: bytes of an element.
        block, shape, strides: in elements, innermost dimension last; the last stride is 1.
        padding: 1 where what is outside of the array is NaN, 0 where it is 0.

    Raises:
        CudaError: the driver refuses it.
    """
    sizes = (tuple(map(int, x)) for x in (block, shape, strides))
    return _made(int(address), int(swizzle), element_bytes, int(element_type), *sizes, int(padding))


@lru_cache(maxsize=256)  # a map is a value: it holds no memory of the array's
def _made(
    address: int, swizzle: int, element_bytes: int, element_type: int,
    block: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...], padding: int,
) -> TensorMap:  # fmt: skip
    driver = api()
    rank = len(shape)
    fill = driver.CUtensorMapFloatOOBfill
    outside = fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
    if padding:
        outside = fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
    made = _aligned()
    name = "cuTensorMapEncodeTiled"
    function, _ = checked(name, driver.cuGetProcAddress(name.encode(), _SINCE, 0))
    code = _ENCODE(int(function))(
        ctypes.addressof(made), element_type, rank, address,
        _numbers(ctypes.c_uint64, shape),
        _numbers(ctypes.c_uint64, [s * element_bytes for s in strides[:-1]]),
        _numbers(ctypes.c_uint32, block), _numbers(ctypes.c_uint32, [1] * rank),
        int(driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE), swizzle,
        int(driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B), int(outside),
    )  # fmt: skip
    checked(f"a tensor map of {shape} in tiles of {block}", (driver.CUresult(code),))
    return made


def _aligned() -> TensorMap:
    """Zeros where the driver takes them."""
    size = ctypes.sizeof(TensorMap)
    memory = bytearray(size + _ALIGNED)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return TensorMap.from_buffer(memory, -begin % _ALIGNED)


def _numbers(kind: Any, values: Sequence[int]) -> Any:
    """An array for the driver: dimensions innermost first."""
    return (kind * len(values))(*reversed(values))
