"""Broken renderers and runners of the toy, for `broken`."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from kevolve_toy.language import ToyRenderer
from kevolve_toy.machine import DTYPES, MEMORY, run
from kevolve_toy.plugin import ToyRunner

from kevolve_core.hosting import DeviceArray
from kevolve_core.ir import Program, Step
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Artifact, Candidate
from kevolve_core.space import Point

LEFT = "kevolve-broken-backend-left-this"
_calls = itertools.count()
_leaked: list[DeviceArray] = []


class CountingRenderer(ToyRenderer):
    """Names its output after a counter."""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        made = super().render(spec, programs, choices)
        text = made.files["kernel.toy"] + f'["case", "unused_{next(_calls)}", "", null]\n'
        return attrs.evolve(made, files={"kernel.toy": text})


class HashOrderedRenderer(ToyRenderer):
    """Prints names in the order of a set, which every process has its own of."""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        made = super().render(spec, programs, choices)
        names = {f"unused_{n}" for n in range(12)}
        lines = "".join(f'["case", "{name}", "", null]\n' for name in names)
        return attrs.evolve(made, files={"kernel.toy": made.files["kernel.toy"] + lines})


class BoundlessRenderer(ToyRenderer):
    """Supports everything, in word."""

    def supports(self, step: Step) -> str:
        return ""


class TailDroppingRenderer(ToyRenderer):
    """Rounds a large first loop down to whole tiles of eight."""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        import json

        made = super().render(spec, programs, choices)
        lines = [json.loads(line) for line in made.files["kernel.toy"].splitlines()]
        for line in lines:
            if line[0] == "kernel" and line[1] and line[1][0] > 8:
                line[1][0] -= line[1][0] % 8
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return attrs.evolve(made, files={"kernel.toy": text})


class AliasingUpload(ToyRunner):
    """A buffer is the tensor's own memory."""

    def upload(self, tensor: Any, *, guarded: bool = False) -> DeviceArray:
        buffer = super().upload(tensor, guarded=guarded)
        if tensor.numel():
            buffer.memory = tensor.detach().as_strided((buffer.memory.size,), (1,)).numpy()
        return buffer


class IgnoresStrides(ToyRunner):
    """Takes every tensor to be dense."""

    def upload(self, tensor: Any, *, guarded: bool = False) -> DeviceArray:
        buffer = super().upload(tensor, guarded=guarded)
        dense = torch.empty(tensor.shape, device="meta").stride()
        return attrs.evolve(buffer, strides=dense)


class ReturnsItsInput(ToyRunner):
    """A probe's answer is the buffer that it was given."""

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        program = super().load(artifact, candidate_dir)
        if hasattr(program, "probe"):
            run_probe = program.probe

            def probe(x: DeviceArray) -> DeviceArray:
                run_probe(x)
                return x

            program.probe = probe
        return program


class NarrowingDownload(ToyRunner):
    """Every number comes back as float32."""

    def download(self, buffer: DeviceArray) -> Any:
        return super().download(buffer).to(torch.float32)


class LossyCopy(ToyRunner):
    """Stores pass through half precision."""

    def launch(self, kernel: list[Any], memory: Mapping[str, Any]) -> None:
        super().launch(kernel, memory)
        for name, *_ in (line[1:] for line in kernel[3:] if line[0] == "st"):
            memory[name][:] = memory[name].astype(np.float16)


class LeaksTheReference(ToyRunner):
    """Memory is given out again with what earlier kernels left in it, and poison touches none of it."""

    def __init__(self) -> None:
        super().__init__()
        self._pool: dict[int, list[Any]] = {}

    def allocate(self, dtype: str, elements: int) -> Any:
        nbytes = elements * DTYPES[dtype]
        pool = self._pool.setdefault(nbytes, [])
        raw = pool.pop() if pool else np.zeros(nbytes, np.uint8)
        array = raw.view(dtype)
        weakref.finalize(array, pool.append, raw)
        return array


class FalseAlarm(ToyRunner):
    """Reports its own thread pool as foreign."""

    def foreign_activity(self) -> str:
        return "a thread called toy-worker-0"


class LyingTimer(ToyRunner):
    """Every call takes five microseconds."""

    def elapsed(self, start: float, end: float) -> float:
        return 5e-6


class Milliseconds(ToyRunner):
    """Its clock gives milliseconds."""

    def elapsed(self, start: float, end: float) -> float:
        return 1e3 * super().elapsed(start, end)


class MissingSynchronise(ToyRunner):
    """Launches are queued; a download works the queue off, and synchronize does not wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: list[Callable[[], None]] = []

    def launch(self, kernel: list[Any], memory: Mapping[str, Any]) -> None:
        self.totals["cycles"] += 100  # handing the work over
        self._queue.append(lambda: super(MissingSynchronise, self).launch(kernel, memory))

    def download(self, buffer: DeviceArray) -> Any:
        while self._queue:
            self._queue.pop(0)()
        return super().download(buffer)


class CountsTheHost(ToyRunner):
    """Adds a millisecond of host code to every call."""

    def elapsed(self, start: float, end: float) -> float:
        return super().elapsed(start, end) + 1e-3


class FallsBackOnHost(ToyRunner):
    """A kernel that faults is computed on the host instead."""

    def launch(self, kernel: list[Any], memory: Mapping[str, Any]) -> None:
        try:
            super().launch(kernel, memory)
        except RuntimeError:
            memory["y"][:] = memory["x"]
            self.totals["cycles"] += 1000


class GivesUpWaiting(ToyRunner):
    """A kernel that takes too long is taken to have ended."""

    def launch(self, kernel: list[Any], memory: Mapping[str, Any]) -> None:
        def work() -> None:
            self.totals.update(run(kernel, memory))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(0.3)
        self.totals["cycles"] += 1


class ClipsAllocations(ToyRunner):
    """Gives less memory than was asked for, and does not say so."""

    def allocate(self, dtype: str, elements: int) -> Any:
        return super().allocate(dtype, min(elements, MEMORY // DTYPES[dtype] // 64))


class LeaksBuffers(ToyRunner):
    """Remembers every buffer."""

    def upload(self, tensor: Any, *, guarded: bool = False) -> DeviceArray:
        _leaked.append(super().upload(tensor, guarded=guarded))
        return _leaked[-1]


class LeavesAProcess(ToyRunner):
    """Starts a daemon that nobody ends (it ends itself after a while)."""

    def open(self, workdir: Path) -> None:
        subprocess.Popen(["sleep", "15"], start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(0.05)


class LeavesAFile(ToyRunner):
    """Writes a log beside everybody else's files."""

    def open(self, workdir: Path) -> None:
        Path(f"/tmp/{LEFT}-{os.getpid()}").write_text("opened\n")


class HalvesItsCounters(ToyRunner):
    """Counts every other byte."""

    def counters(self) -> Mapping[str, float]:
        found = super().counters()
        return {name: value / 2 if name.startswith("bytes") else value for name, value in found.items()}


class CountsDown(ToyRunner):
    """Gives what is left of a quota, which falls."""

    def counters(self) -> Mapping[str, float]:
        found = super().counters()
        return {**found, "cycles_left": 1e12 - found.get("cycles", 0.0)}


class CountsNothing(ToyRunner):
    """Declares counters and has none."""

    def counters(self) -> Mapping[str, float]:
        return {}
