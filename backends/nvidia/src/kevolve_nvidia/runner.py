"""Device primitives for an NVIDIA GPU: buffers are torch tensors, time is CUDA events'."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.isolate.entry import EntryModules, entry_of
from kevolve_core.model import Artifact, Device
from kevolve_core.native import binding
from kevolve_nvidia.activity import ThreadWatch
from kevolve_nvidia.architectures import architecture
from kevolve_nvidia.cutedsl.ahead import CUTE_FOLDER, running_from
from kevolve_nvidia.gate import Gate
from kevolve_nvidia.graphs import Replayed
from kevolve_nvidia.guard import GuardedMemory
from kevolve_nvidia.launching import graph_remarks
from kevolve_nvidia.native import ModuleLoader
from kevolve_nvidia.settings import Settings
from kevolve_nvidia.triton_properties import triton_properties

__all__ = ["NvidiaRunner"]

_FLUSH_OVER_L2 = 3  # times the L2 cache that a flush reads; twice is the least that is asked for
_REMEMBERED = 64  # addresses kept to not give one out again soon; `estimated`
_GUARDED_BYTES = 256 << 20  # larger inputs go unguarded: their pages would be mapped anew for every call
_NAN_BYTE = 0xFF  # all bits set is a NaN in every float format, and -1 or true elsewhere
#: Bytes of the blocks poisoned beside the large one: PyTorch keeps blocks up to 1 MiB in a pool of their own.
_SMALL_BLOCKS = tuple(1 << e for e in range(9, 21, 2))
#: Work that goes on so much longer than the timed stream runs elsewhere; several times in a row, since the
#: host may lose its CPU once. Both `estimated`.
_LATE_S, _LATE_TIMES = 5e-4, 3


class NvidiaRunner:
    """See `kevolve_core.interfaces.Runner`."""

    def __init__(self, device: Device, settings: Settings) -> None:
        if "run" not in device.capabilities:
            raise UnsupportedError(
                "this device is only there to be compiled for",
                got=device.id,
                mend="choose a GPU of `kevolve plugins list`",
            )
        self._device = device
        self._index = int(device.facts["index"])
        self._torch_device = torch.device("cuda", self._index)
        self._ahead = settings.queue_ahead_us * 1e-6
        self._watch = ThreadWatch()
        self._modules = EntryModules()
        self._loader: ModuleLoader | None = None
        self._cute = ExitStack()
        self._replayed: list[Replayed] = []
        self._gate: Gate | None = None
        self._guard: GuardedMemory | None = None
        self._flush: torch.Tensor | None = None
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)
        self._gated = False
        self._end: Any = None
        self._late = 0
        self._capability = architecture(device.target.arch).capability

    def open(self, workdir: Path) -> None:
        """Make the context, and do all that a confined process could not: load libraries, start programs."""
        del workdir
        sys.dont_write_bytecode = True  # a candidate's folder may be read-only or rewritten
        if not torch.cuda.is_available():
            raise KevolveError(
                "PyTorch sees no GPU",
                got=f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}",
                where=self._device.id,
                mend="install a torch wheel built for CUDA: see pytorch.org/get-started",
            )
        torch.cuda.set_device(self._torch_device)
        facts = self._device.facts
        size = _FLUSH_OVER_L2 * int(facts["l2_bytes"])
        self._flush = torch.ones(size // 4, device=self._torch_device)
        self._gate = Gate(int(facts["multiprocessors"]), int(facts["shared_bytes_per_block"]))
        if facts.get("virtual_memory"):
            self._guard = GuardedMemory(self._index)
        self._warm()
        self._watch.arm()

    def _warm(self) -> None:
        """First uses of what everybody uses: kernels, cuBLAS, events, the gate, Triton's hashes."""
        torch.ones(1 << 22).add_(1.0).sum()  # starts PyTorch's threads on the CPU, which downloads use
        ones = torch.ones(64, 64, device=self._torch_device)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            x = ones.to(dtype)
            (x @ x).softmax(-1).sum().item()
        self.flush_cache()
        start, end = self.timestamp(), self.timestamp()
        self.synchronize()
        self.elapsed(start, end)
        self.poison(1 << 20)
        if self._guard is not None:
            self._guard.buffer(4096, torch.float32)
        try:
            from kevolve_nvidia.triton_run import warm

            warm(self._capability)
        except ImportError:
            return  # no Triton: its candidates do not compile here either

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        """The entry module, its kernels bound to the artifact's binaries."""
        from kevolve_nvidia.triton_run import TRITON_FOLDER, activate

        if self._loader is not None:
            self.reset()
        self._loader = ModuleLoader(artifact.binaries)
        folder = Path(str(artifact.facts.get("folder", ""))) / TRITON_FOLDER
        if "folder" in artifact.facts and folder.is_dir():
            properties = triton_properties(self._device.facts, architecture(self._device.target.arch))
            activate(self._index, self._capability, properties, folder)
        objects = Path(str(artifact.facts.get("folder", ""))) / CUTE_FOLDER
        if "folder" in artifact.facts and objects.is_dir():
            self._cute.enter_context(running_from(objects))
        with binding(self._loader, self._replay):
            return self._modules.load(candidate_dir, entry_of(artifact, candidate_dir))

    def _replay(self, run: Any, inputs: int) -> Any:
        self._replayed.append(made := Replayed(run, inputs))
        return made

    def remarks(self) -> Mapping[str, str]:
        """See `kevolve_core.interfaces.Remarking`."""
        return graph_remarks(self._replayed)

    def upload(self, tensor: torch.Tensor, *, guarded: bool = False) -> torch.Tensor:
        """A copy with the same shape, strides and place in its storage, at an address not given out
        lately."""
        source = tensor.detach()
        if source.numel() == 0:
            return torch.empty_strided(
                source.shape, source.stride(), dtype=source.dtype, device=self._torch_device
            )
        item = source.element_size()
        extent = 1 + sum((n - 1) * s for n, s in zip(source.shape, source.stride(), strict=True))
        # A view deep inside a huge buffer keeps its alignment, not the gigabytes before it.
        skip = source.storage_offset() % (4096 // item)
        flat = self._buffer((skip + extent) * item, source.dtype, guarded)
        flat[:skip] = source.as_strided((1,), (1,))[0]
        flat[skip:].copy_(source.as_strided((extent,), (1,)))
        return flat.as_strided(source.shape, source.stride(), skip)

    def _buffer(self, nbytes: int, dtype: torch.dtype, guarded: bool) -> torch.Tensor:
        if guarded and self._guard is not None and nbytes <= _GUARDED_BYTES:
            found = self._guard.buffer(nbytes, dtype)
            if found is not None:
                return found
        count = nbytes // torch.empty(0, dtype=dtype).element_size()
        tried = []  # kept until one is good: freed, the same block would come back
        for _ in range(4):
            flat = torch.empty(count, dtype=dtype, device=self._torch_device)
            tried.append(flat)
            if flat.data_ptr() not in self._recent or nbytes > _GUARDED_BYTES:
                break
        self._recent.append(flat.data_ptr())
        return flat

    def download(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer.detach().cpu()

    def to_device(self, module: Any) -> Any:
        return module.to(self._torch_device)

    def synchronize(self) -> None:
        """Wait for every stream of the device. What a call left running beyond its own stream is noticed
        here, see `foreign_activity`."""
        if self._end is None:
            torch.cuda.synchronize(self._torch_device)
            return
        end, self._end = self._end, None
        end.synchronize()
        begin = time.perf_counter()
        torch.cuda.synchronize(self._torch_device)
        self._late = self._late + 1 if time.perf_counter() - begin > _LATE_S else 0

    def timestamp(self) -> Any:
        """An event on the current stream; the first one after a cache flush waits behind the gate."""
        event = torch.cuda.Event(enable_timing=True)
        if self._gated and self._gate is not None:
            self._gated = False
            if self._ahead:
                self._gate.hold(self._ahead, torch.cuda.current_stream().cuda_stream)
        else:
            self._end = event
        event.record()
        return event

    def elapsed(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) * 1e-3

    def flush_cache(self) -> None:
        """Read three times the L2 cache. Reading leaves clean lines: after a flush that writes, the timed
        call would pay for writing those back. Lines that were set to persist are released first."""
        from kevolve_nvidia.driver import api, checked

        checked("cuCtxResetPersistingL2Cache", api().cuCtxResetPersistingL2Cache())
        if self._flush is not None:
            self._flush.sum()
        self._gated = True

    def poison(self, nbytes: int) -> None:
        """Fill a free block of ``nbytes``, and some small ones, with NaN and free them again: PyTorch's
        allocator gives the next result of that size the same block."""
        blocks = [torch.empty(nbytes, dtype=torch.uint8, device=self._torch_device)]
        blocks += [
            torch.empty(size, dtype=torch.uint8, device=self._torch_device)
            for size in _SMALL_BLOCKS
            for _ in range(2)
        ]
        for block in blocks:
            block.fill_(_NAN_BYTE)

    def counters(self) -> Mapping[str, float]:
        """Totals of this process: device allocations and their bytes, the host's CPU and wall seconds."""
        stats = torch.cuda.memory_stats(self._torch_device)
        return {
            "device_allocations": float(stats.get("allocation.all.allocated", 0)),
            "device_allocated_bytes": float(stats.get("allocated_bytes.all.allocated", 0)),
            "host_cpu_seconds": time.process_time(),
        }

    def foreign_activity(self) -> str:
        """Threads that are not the driver's, another stream left current, work beyond the timed stream."""
        if found := self._watch.check():
            return found
        if torch.cuda.current_stream() != torch.cuda.default_stream():
            return "another stream was left current"
        if self._late >= _LATE_TIMES:
            return "the device worked on after the call's own stream had ended"
        return ""

    def reset(self) -> None:
        """Forget the candidate: its modules, kernels and memory."""
        if self._loader is None:
            return
        from kevolve_nvidia.triton_run import deactivate

        self._modules.reset()
        torch.cuda.synchronize(self._torch_device)
        for replayed in self._replayed:
            replayed.close()
        self._replayed.clear()
        if self._device.target.arch and "triton" in sys.modules:
            deactivate()
        self._cute.close()
        self._loader.close()
        self._loader = None
        self._late = 0
        torch.cuda.empty_cache()
