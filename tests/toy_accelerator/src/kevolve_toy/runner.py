"""Device memory and a queue of launches, which the device works off when it is waited for."""

from __future__ import annotations

import ast
import json
import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from attrs import define

from kevolve_core.errors import UnsupportedError
from kevolve_core.model import Artifact
from kevolve_toy.machine import DTYPES, FREQUENCY, MEMORY, run


@define(eq=False)
class ToyBuffer:
    """Memory of the device, opaque to everybody else: a flat array and how a tensor lies in it."""

    flat: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


class ToyRunner:
    """See `kevolve_core.interfaces.Runner`."""

    def __init__(self) -> None:
        self._queue: list[Callable[[], None]] = []
        self._totals: dict[str, float] = dict.fromkeys(
            ("bytes_read", "bytes_written", "launches", "cycles"), 0.0
        )
        self._free: dict[int, list[Any]] = defaultdict(list)  # memory that was given back, by size

    def open(self, workdir: Path) -> None:
        del workdir

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        del candidate_dir
        program = json.loads(Path(next(iter(artifact.binaries.values()))).read_text())
        return SimpleNamespace(**{program["entry"]: ToyProgram(self, program)})

    def allocate(
        self, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...] | None = None
    ) -> ToyBuffer:
        strides = torch.empty(shape, device="meta").stride() if strides is None else strides
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if math.prod(shape) else 0
        nbytes = extent * DTYPES[dtype]
        if nbytes > MEMORY:
            raise MemoryError(f"{nbytes} bytes on a device of {MEMORY}")
        raw = self._free[nbytes].pop() if self._free[nbytes] else np.full(nbytes, 0xFF, np.uint8)
        buffer = ToyBuffer(raw.view(dtype), shape, strides)
        weakref.finalize(buffer, self._free[nbytes].append, raw)
        return buffer

    def upload(self, tensor: Any, *, guarded: bool = False) -> ToyBuffer:
        del guarded  # every access is checked
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UnsupportedError("the toy has no such element type", got=dtype, mend=", ".join(DTYPES))
        buffer = self.allocate(dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel():
            buffer.flat[:] = tensor.detach().as_strided((buffer.flat.size,), (1,)).numpy()
        return buffer

    def download(self, buffer: ToyBuffer) -> Any:
        self.synchronize()
        if not math.prod(buffer.shape):
            return torch.empty(buffer.shape, dtype=getattr(torch, str(buffer.flat.dtype)))
        flat = torch.from_numpy(buffer.flat.copy())
        return flat.as_strided(buffer.shape, buffer.strides, buffer.offset)

    def to_device(self, module: Any) -> Any:
        return module  # PyTorch does not know this device: its modules stay where they are

    def launch(self, kernel: dict[str, Any], memory: dict[str, Any]) -> None:
        def work() -> None:
            for name, value in run(kernel, memory).items():
                self._totals[name] += value

        self._queue.append(work)

    def synchronize(self) -> None:
        waiting, self._queue = self._queue, []
        for work in waiting:
            work()

    def timestamp(self) -> dict[str, float]:
        mark: dict[str, float] = {}
        self._queue.append(lambda: mark.update(cycles=self._totals["cycles"]))
        return mark

    def elapsed(self, start: dict[str, float], end: dict[str, float]) -> float:
        return (end["cycles"] - start["cycles"]) / FREQUENCY

    def flush_cache(self) -> None:
        """There is no cache."""

    def poison(self, nbytes: int) -> None:
        del nbytes  # all of it
        for blocks in self._free.values():
            for block in blocks:
                block[:] = 0xFF

    def counters(self) -> Mapping[str, float]:
        self.synchronize()
        return dict(self._totals)

    def foreign_activity(self) -> str:
        return ""

    def reset(self) -> None:
        self._queue.clear()
        self._free.clear()


class ToyProgram:
    """A loaded program: called with buffers and scalars, it queues its kernels and returns new buffers."""

    def __init__(self, runner: ToyRunner, program: dict[str, Any]) -> None:
        self._runner, self._program, self._weights = runner, program, dict[str, ToyBuffer]()

    def load_state_dict(self, weights: Mapping[str, ToyBuffer]) -> None:
        self._weights = dict(weights)

    def __call__(self, *arguments: Any) -> Any:
        made: dict[str, ToyBuffer] = {}
        for name, (role, source, dtype, shape) in self._program["buffers"].items():
            if role == "input":
                made[name] = arguments[int(source)]
            elif role == "param":
                made[name] = self._weights[source]
            else:
                made[name] = self._runner.allocate(dtype, tuple(shape))
        memory = {name: buffer.flat for name, buffer in made.items()}
        for kernel in self._program["kernels"]:
            self._runner.launch(kernel, memory)
        leaves = [
            ToyBuffer(made[name].flat, tuple(shape), tuple(strides), offset)
            if (tuple(shape), offset) != (made[name].shape, 0)
            else made[name]
            for name, offset, shape, strides in self._program["outputs"]
        ]
        return _built(ast.literal_eval(self._program["structure"]), leaves)


def _built(structure: Any, leaves: list[ToyBuffer]) -> Any:
    if isinstance(structure, int):
        return leaves[structure]
    if isinstance(structure, dict):
        return {key: _built(value, leaves) for key, value in structure.items()}
    return type(structure)(_built(value, leaves) for value in structure)
