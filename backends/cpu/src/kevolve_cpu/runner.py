"""Device primitives for a CPU: buffers are torch tensors, work is synchronous."""

from __future__ import annotations

import ctypes
import random
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import torch

from kevolve_core.errors import KevolveError
from kevolve_core.isolate.entry import EntryModules, entry_of
from kevolve_core.model import Artifact
from kevolve_core.native import binding
from kevolve_cpu.counters import software_counters
from kevolve_cpu.guard import guarded_buffer
from kevolve_cpu.native import LibraryLoader
from kevolve_cpu.threads import ThreadWatch

__all__ = ["CpuRunner"]

_ALIGNMENT = 64  # torch's own CPU allocator aligns to this (c10/core/alignment.h, gAlignment)
_PAGE = 4096
_REMEMBERED = 4096  # addresses kept to not give one out again soon; `estimated`
_SLACK = 1 << 16
_GUARDED_BYTES = 64 << 20  # larger inputs go unguarded: their pages would be mapped anew for every call
_NAN_BYTE = 0xFF  # all bits set is a NaN in every float format, and -1 or true elsewhere
#: Bytes of the blocks poisoned beside the large one: malloc serves small results from lists by size.
_SMALL_BLOCKS = tuple(1 << e for e in range(6, 21))


class CpuRunner:
    """See `kevolve_core.interfaces.Runner`.

    Args:
        threads: OpenMP threads for torch and candidates.
        llc_bytes: last-level cache that `flush_cache` evicts.
    """

    def __init__(self, threads: int, llc_bytes: int) -> None:
        self._threads = threads
        self._flush_bytes = 2 * llc_bytes
        self._flush: torch.Tensor | None = None
        self._watch = ThreadWatch()
        self._workdir: Path | None = None
        self._loader: LibraryLoader | None = None
        self._modules = EntryModules()
        self._random = random.Random()  # addresses only: nothing that is recorded depends on it
        self._recent: OrderedDict[int, None] = OrderedDict()

    def open(self, workdir: Path) -> None:
        """Set torch's threads, start its pools, allocate the flush buffer. ``workdir`` must be writable."""
        self._workdir = workdir
        sys.dont_write_bytecode = True  # a candidate's folder may be read-only or rewritten
        torch.set_num_threads(self._threads)
        self._flush = torch.ones(self._flush_bytes // 4, dtype=torch.float32)
        warm = torch.ones(256, 256)
        torch.mm(warm, warm).softmax(-1).sum()
        self.flush_cache()
        self._watch.arm()

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        """The entry module, imported from ``candidate_dir``. Its name is the artifact's fact ``entry``, which
        the compiler notes. The folder stays importable until `reset`, for imports inside functions."""
        if self._workdir is None:
            raise KevolveError("the runner is not open", where="cpu runner", mend="call open() first")
        if self._loader is not None:
            self.reset()
        self._loader = LibraryLoader(artifact.binaries)
        with binding(self._loader):
            return self._modules.load(candidate_dir, entry_of(artifact, candidate_dir))

    def upload(self, tensor: torch.Tensor, *, guarded: bool = False) -> torch.Tensor:
        """A copy with the same shape, strides and place in its storage, at an address not given out lately:
        64-byte aligned storage, at a random one of a page's 64 places."""
        source = tensor.detach()
        if source.numel() == 0:
            return torch.empty_strided(source.shape, source.stride(), dtype=source.dtype)
        item = source.element_size()
        extent = 1 + sum((n - 1) * s for n, s in zip(source.shape, source.stride(), strict=True))
        # A view deep inside a huge buffer keeps its alignment, not the gigabytes before it.
        skip = source.storage_offset() % (_PAGE // item)
        nbytes = (skip + extent) * item
        if guarded and nbytes <= _GUARDED_BYTES:
            flat = guarded_buffer(nbytes, source.dtype)
        else:
            flat = self._allocate(nbytes, source.dtype)
        flat[:skip] = source.as_strided((1,), (1,))[0]
        flat[skip:].copy_(source.as_strided((extent,), (1,)))
        return flat.as_strided(source.shape, source.stride(), skip)

    def download(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer.detach()

    def to_device(self, module: Any) -> Any:
        return module.to("cpu")

    def synchronize(self) -> None:
        """Nothing to wait for: a call on this device returns when its work has ended."""

    def timestamp(self) -> int:
        """Nanoseconds of the clock bound when this module was imported."""
        return perf_counter_ns()

    def elapsed(self, start: int, end: int) -> float:
        return (end - start) * 1e-9

    def flush_cache(self) -> None:
        """Read twice the last-level cache with every thread."""
        if self._flush is not None:
            self._flush.sum()

    def poison(self, nbytes: int) -> None:
        """Fill a free block of ``nbytes``, and some of every small size, with NaN and free them again.

        Only the first 32 bytes of a free block hold malloc's links instead. It also leaves the pages of the
        next result mapped, the same for every side: call it before each call.
        """
        # An aligned allocation asks malloc for more than its size; without this slack the block freed here
        # would be just too small to be used again (glibc's memalign), and poison would hit nothing.
        blocks = [torch.empty(nbytes + _SLACK, dtype=torch.uint8)]
        blocks += [torch.empty(size, dtype=torch.uint8) for size in _SMALL_BLOCKS for _ in range(4)]
        for block in blocks:
            block.fill_(_NAN_BYTE)

    def counters(self) -> Mapping[str, float]:
        """Software counters of this process so far; see `kevolve_cpu.counters.software_counters`."""
        return software_counters()

    def foreign_activity(self) -> str:
        """See `ThreadWatch.check`."""
        return self._watch.check()

    def reset(self) -> None:
        """Forget the candidate: its modules, its libraries, its place on the import path."""
        if self._loader is None:
            return
        self._modules.reset()
        # A thread of the candidate's may still be in its code: then the library stays mapped, or the worker
        # would crash in the next candidate's name.
        if not self._watch.check() and not self._watch.found:
            self._loader.close()
        self._loader = None

    def _allocate(self, nbytes: int, dtype: torch.dtype) -> torch.Tensor:
        places = _PAGE // _ALIGNMENT
        for pages in (1, 2, 4, 8, 16):
            backing = torch.empty(nbytes + (pages + 1) * _PAGE, dtype=torch.uint8)
            first = -(-backing.data_ptr() // _ALIGNMENT) * _ALIGNMENT
            for place in self._random.sample(range(pages * places), min(places, 16)):
                address = first + place * _ALIGNMENT
                if address not in self._recent:
                    break
            else:
                continue
            break
        self._recent[address] = None
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
        # Not a slice of the backing: the storage itself has to begin here, or offsets and guards would show.
        storage: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        storage.backing = backing  # lives as long as the tensor, which holds the buffer it is made from
        return torch.frombuffer(storage, dtype=dtype)
