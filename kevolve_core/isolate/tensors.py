"""Trees of tensors in shared memory: one anonymous file (memfd) a tree, and a JSON layout beside it.

The file is sealed once written, so that neither end can change or shrink it under the other's eyes. A layout
that comes from an untrusted process is checked against the file's real size before anything is mapped.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import torch
from attrs import frozen

from kevolve_core.errors import WorkerError

__all__ = [
    "Block",
    "LayoutError",
    "ReusableBlock",
    "describe",
    "flatten",
    "open_block",
    "pack_block",
    "unflatten",
]

_ALIGN = 64
_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SEALS = _SIZE_SEALS | fcntl.F_SEAL_WRITE
_F_SEAL_FUTURE_WRITE = 0x0010  # linux/fcntl.h; not in Python's fcntl


class LayoutError(WorkerError):
    """A layout does not fit its file: the sender is broken or lies."""


@frozen
class Block:
    """A sealed memory file and the layout of the tensors in it. ``close`` when done."""

    fd: int
    layout: dict[str, Any]

    @property
    def nbytes(self) -> int:
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Leaves of nested lists, tuples and dicts in depth-first order, and the structure with leaf numbers."""
    leaves: list[Any] = []
    return leaves, _visit(tree, leaves)


def _visit(node: Any, leaves: list[Any]) -> Any:
    # No inner function of `flatten`: one that calls itself is a cycle, and would keep the leaves, which may
    # be gigabytes of a device, until the next collection.
    if isinstance(node, (list, tuple)):
        kind = "list" if isinstance(node, list) else "tuple"
        return {kind: [_visit(n, leaves) for n in node]}
    if isinstance(node, dict):
        return {"dict": {str(k): _visit(v, leaves) for k, v in node.items()}}
    leaves.append(node)
    return len(leaves) - 1


def unflatten(structure: Any, leaves: Sequence[Any]) -> Any:
    """The inverse of `flatten`."""
    if isinstance(structure, int):
        return leaves[structure]
    if "list" in structure:
        return [unflatten(s, leaves) for s in structure["list"]]
    if "tuple" in structure:
        return tuple(unflatten(s, leaves) for s in structure["tuple"])
    return {k: unflatten(s, leaves) for k, s in structure["dict"].items()}


def describe(leaf: Any) -> str:
    """A leaf in words, for messages."""
    if isinstance(leaf, torch.Tensor):
        return f"{_dtype_name(leaf.dtype)}{list(leaf.shape)}"
    return type(leaf).__name__


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last one that a strided view touches, inclusive."""
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def pack_block(tree: Any, *, keep_strides: bool = True) -> Block:
    """Copy the tensors of ``tree`` (CPU) into a new sealed memory file.

    Tensors keep their strides and their offset inside a wider storage when ``keep_strides``; everything
    between the elements of a strided view is zero in the copy. Scalars, strings and None travel in the
    layout.
    """
    leaves, structure = flatten(tree)
    entries, tensors, size = _arranged(leaves, keep_strides)
    fd = os.memfd_create("kevolve", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if size:
            os.ftruncate(fd, size)
            with mmap.mmap(fd, size) as memory:
                _fill(memory, entries, tensors)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Block(fd, {"structure": structure, "leaves": entries})


class ReusableBlock:
    """A memory file that its owner fills again and again, and that nobody else can write or resize.

    What was sent of an earlier content must no longer be in use when it is filled: it saves mapping fresh
    pages for inputs of hundreds of megabytes.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._memory: mmap.mmap | None = None
        self._size = -1

    def fill(self, tree: Any) -> Block:
        """Copy ``tree`` in; the block's descriptor is a duplicate, the caller's to close."""
        leaves, structure = flatten(tree)
        entries, tensors, size = _arranged(leaves, True)
        if size != self._size:
            self.close()
            self._fd = os.memfd_create("kevolve", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._fd, size)
            self._memory = mmap.mmap(self._fd, size) if size else None
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SIZE_SEALS | _F_SEAL_FUTURE_WRITE)
            self._size = size
        if self._memory is not None:
            _fill(self._memory, entries, tensors)
        return Block(os.dup(self._fd), {"structure": structure, "leaves": entries})

    def close(self) -> None:
        """Let go of the memory."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._memory, self._size = -1, None, -1


def _arranged(leaves: list[Any], keep_strides: bool) -> tuple[list[dict[str, Any]], list[torch.Tensor], int]:
    """Layout entries of all leaves, the tensors among them, and the bytes they need."""
    entries: list[dict[str, Any]] = []
    tensors: list[torch.Tensor] = []
    size = 0
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            if not isinstance(leaf, (int, float, bool, str, type(None))):
                raise LayoutError("a value is neither a tensor nor a plain scalar", got=type(leaf).__name__)
            entries.append({"value": _plain_scalar(leaf)})
            continue
        tensor = leaf.detach()
        if not keep_strides or any(s < 0 for s in tensor.stride()):
            tensor = tensor.contiguous()
        lead = tensor.storage_offset() % (_ALIGN // tensor.element_size() or 1) if keep_strides else 0
        extent = lead + _extent(tensor.shape, tensor.stride())
        entries.append(
            {
                "dtype": _dtype_name(tensor.dtype),
                "shape": list(tensor.shape),
                "strides": list(tensor.stride()),
                "lead": lead,
                "offset": size,
            }
        )
        tensors.append(tensor)
        size += -(-extent * tensor.element_size() // _ALIGN) * _ALIGN
    return entries, tensors, size


def _fill(memory: mmap.mmap, entries: list[dict[str, Any]], tensors: list[torch.Tensor]) -> None:
    for tensor, entry in zip(tensors, [e for e in entries if "shape" in e], strict=True):
        view = _view(memory, entry["offset"], entry)
        if view is not None:
            view.copy_(tensor)
        del view  # an exported view would keep the mapping open


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _view(memory: mmap.mmap, offset: int, entry: dict[str, Any]) -> torch.Tensor | None:
    dtype = getattr(torch, entry["dtype"])
    extent = entry["lead"] + _extent(entry["shape"], entry["strides"])
    if extent == entry["lead"]:
        return None
    flat = torch.frombuffer(memory, dtype=dtype, count=extent, offset=offset)
    return flat.as_strided(entry["shape"], entry["strides"], entry["lead"])


def open_block(fd: int, layout: dict[str, Any], *, copy: bool = False, trusted: bool = False) -> Any:
    """Map a memory file and return its tree; with ``copy`` tensors own private memory. One that is
    ``trusted`` may be its sender's to write again (`ReusableBlock`).

    Raises:
        LayoutError: the file is not sealed, or the layout reaches outside it.
    """
    try:
        wanted = _SIZE_SEALS if trusted else _SEALS
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & wanted != wanted:
            raise LayoutError("a memory file is not sealed")
        size = os.fstat(fd).st_size
        # A private mapping: torch knows no read-only tensors, and a stray write must not be a segfault.
        memory = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE) if size else None
        leaves: list[Any] = []
        for entry in layout["leaves"]:
            if "value" in entry:
                value = entry["value"]
                leaves.append(float(value["float"]) if isinstance(value, dict) else value)
                continue
            leaves.append(_open_leaf(memory, size, entry, copy))
        return unflatten(layout["structure"], leaves)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, OSError) as error:
        raise LayoutError("a tensor layout is malformed", got=repr(error)) from error


def _open_leaf(memory: mmap.mmap | None, size: int, entry: dict[str, Any], copy: bool) -> torch.Tensor:
    dtype = getattr(torch, entry["dtype"])
    shape, strides = [int(n) for n in entry["shape"]], [int(s) for s in entry["strides"]]
    lead, offset = int(entry["lead"]), int(entry["offset"])
    extent = lead + _extent(shape, strides)
    itemsize = torch.empty(0, dtype=dtype).element_size()
    if min([0, lead, offset, *shape, *strides]) < 0 or (offset + extent * itemsize > size and 0 not in shape):
        raise LayoutError("a tensor layout reaches outside its memory", got=entry)
    if memory is None or 0 in shape:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(memory, dtype=dtype, count=extent, offset=offset)
    if copy:
        flat = flat.clone()
    return flat.as_strided(shape, strides, lead)
