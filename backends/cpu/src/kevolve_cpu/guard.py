"""Buffers whose end is the end of mapped memory: reading past them is a segmentation fault, not luck."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import torch

__all__ = ["guarded_buffer"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_ALIGNMENT = 64  # what a kernel may expect of a tensor's start, and so the most that stays unguarded


def guarded_buffer(nbytes: int, dtype: torch.dtype) -> torch.Tensor:
    """A flat tensor of ``nbytes`` bytes that ends where an inaccessible page begins, but for up to 63 bytes
    of NaN that align its start. Raises OSError where the system has no memory."""
    padded = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    pages = -(-padded // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fence = base + (pages - 1) * mmap.PAGESIZE
    if _libc.mprotect(fence, mmap.PAGESIZE, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")
    ctypes.memset(fence - padded, 0xFF, padded)
    storage: Any = (ctypes.c_uint8 * nbytes).from_address(fence - padded)
    storage.backing = memory  # unmapped, fence and all, when the tensor goes
    return torch.frombuffer(storage, dtype=dtype)
