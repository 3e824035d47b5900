"""The device in a worker process: memory that PyTorch does not know, and programs that run on it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from attrs import define

from kevolve_core.errors import UnsupportedError
from kevolve_core.isolate.tensors import unflatten
from kevolve_core.model import Artifact
from kevolve_toy.machine import DTYPES, FREQUENCY, MEMORY, run


@define(eq=False)
class ToyBuffer:
    """A flat array of device memory, and how a tensor lies in it."""

    flat: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


class ToyRunner:
    """See `kevolve_core.interfaces.Runner`."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()

    def open(self, workdir: Path) -> None:
        """There is no device to acquire."""

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        program = json.loads(Path(artifact.binaries["kernel.toy"]).read_text())
        return SimpleNamespace(**{program["entry"]: ToyProgram(self, program)})

    def allocate(self, dtype: str, elements: int) -> Any:
        if elements * DTYPES[dtype] > MEMORY:
            raise MemoryError(f"{elements} elements of {dtype} on a device of {MEMORY} bytes")
        return np.full(elements * DTYPES[dtype], 0xFF, np.uint8).view(dtype)  # NaN until it is written

    def upload(self, tensor: Any, *, guarded: bool = False) -> ToyBuffer:
        dtype, shape, strides = str(tensor.dtype).removeprefix("torch."), tensor.shape, tensor.stride()
        if dtype not in DTYPES:
            raise UnsupportedError("the toy has no such element type", got=dtype, mend=", ".join(DTYPES))
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if tensor.numel() else 0
        buffer = ToyBuffer(self.allocate(dtype, extent), tuple(shape), strides)
        buffer.flat[:] = tensor.detach().as_strided((extent,), (1,)).numpy()
        return buffer

    def download(self, buffer: ToyBuffer) -> Any:
        return torch.from_numpy(buffer.flat.copy()).as_strided(buffer.shape, buffer.strides, buffer.offset)

    def to_device(self, module: Any) -> Any:
        return module  # PyTorch's modules stay where they are

    def launch(self, kernel: dict[str, Any], memory: dict[str, Any]) -> None:
        self.totals.update(run(kernel, memory))

    def synchronize(self) -> None:
        """A launch returns when its work has ended."""

    def timestamp(self) -> float:
        return float(self.totals["cycles"])

    def elapsed(self, start: float, end: float) -> float:
        return (end - start) / FREQUENCY

    def flush_cache(self) -> None:
        """There is no cache."""

    def poison(self, nbytes: int) -> None:
        """New memory is full of NaN already."""

    def counters(self) -> Mapping[str, float]:
        return dict(self.totals)

    def foreign_activity(self) -> str:
        return ""

    def reset(self) -> None:
        """Nothing is kept of a program."""


class ToyProgram:
    """A loaded program: called with buffers, it launches its kernels and returns new buffers."""

    def __init__(self, runner: ToyRunner, program: dict[str, Any]) -> None:
        self._runner, self._program, self._weights = runner, program, dict[str, ToyBuffer]()

    def load_state_dict(self, weights: Mapping[str, ToyBuffer]) -> None:
        self._weights = dict(weights)

    def __call__(self, *arguments: Any) -> Any:
        memory = {}
        for name, role, source, dtype, shape in self._program["buffers"]:
            given = arguments[int(source)] if role == "input" else self._weights.get(source)
            memory[name] = given.flat if given else self._runner.allocate(dtype, math.prod(shape))
        for kernel in self._program["kernels"]:
            self._runner.launch(kernel, memory)
        leaves = [
            ToyBuffer(memory[name], tuple(n), tuple(s), at) for name, n, s, at in self._program["leaves"]
        ]
        return unflatten(self._program["structure"], leaves)
