"""Device buffers whose end is the end of mapped memory: reading past them is a fault, not luck."""

from __future__ import annotations

from typing import Any

import torch

from kevolve_nvidia.driver import CudaError, api, checked

__all__ = ["GuardedMemory"]

_ALIGNMENT = 256  # of a buffer's start, as much as cudaMalloc promises; at most so many bytes stay unguarded
_NAN_BYTE = 0xFF


class GuardedMemory:
    """Memory of one device through CUDA's virtual memory functions (CUDA driver API, Virtual Memory
    Management). Behind each buffer lies reserved address space that nothing is mapped to."""

    def __init__(self, index: int) -> None:
        driver = api()
        properties = driver.CUmemAllocationProp()
        properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = index
        access = driver.CUmemAccessDesc()
        access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = index
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        least = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self._granule = int(checked("granularity", driver.cuMemGetAllocationGranularity(properties, least)))
        self._index, self._properties, self._access = index, properties, access

    def buffer(self, nbytes: int, dtype: torch.dtype) -> torch.Tensor | None:
        """A flat tensor of ``nbytes`` bytes that ends where nothing is mapped, but for up to 255 bytes of
        NaN that align its start; None where the device has no memory left for it."""
        padded = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        mapped = -(-padded // self._granule) * self._granule
        try:
            pages = _Pages(mapped, self._granule, self._properties, self._access)
        except CudaError:
            return None
        checked("cuMemsetD8", api().cuMemsetD8(pages.address + mapped - padded, _NAN_BYTE, padded))
        pages.describe(pages.address + mapped - padded, nbytes)
        flat: torch.Tensor = torch.as_tensor(pages, device=f"cuda:{self._index}")
        return flat.view(dtype)


class _Pages:
    """One mapping, undone when the last tensor that uses it goes."""

    def __init__(self, mapped: int, fence: int, properties: Any, access: Any) -> None:
        driver = api()
        self._size, self._reserved = mapped, mapped + fence
        self._handle: Any = None
        self.address = 0
        self.__cuda_array_interface__: dict[str, Any] = {}
        self.address = int(
            checked("cuMemAddressReserve", driver.cuMemAddressReserve(self._reserved, 0, 0, 0))
        )
        handle = checked("cuMemCreate", driver.cuMemCreate(mapped, properties, 0))
        result = driver.cuMemMap(self.address, mapped, 0, handle, 0)
        if int(result[0]) != 0:
            driver.cuMemRelease(handle)
        checked("cuMemMap", result)
        self._handle = handle
        checked("cuMemSetAccess", driver.cuMemSetAccess(self.address, mapped, [access], 1))

    def describe(self, address: int, nbytes: int) -> None:
        """What PyTorch reads to make a tensor of it (Numba's CUDA Array Interface, version 3)."""
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        driver = api()
        if self._handle is not None:
            torch.cuda.synchronize()  # nothing may still read it
            driver.cuMemUnmap(self.address, self._size)
            driver.cuMemRelease(self._handle)
        if self.address:
            driver.cuMemAddressFree(self.address, self._reserved)
