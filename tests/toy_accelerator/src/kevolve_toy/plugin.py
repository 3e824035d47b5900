"""The backend: compiler, runner, profiler, schedule space; and what the plugin registers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kevolve_core import interfaces as api
from kevolve_core.builds import BuildCache
from kevolve_core.errors import UnsupportedError
from kevolve_core.hosting import HostedRunner
from kevolve_core.ir import LoopNest, Step
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evidence, Target, content_hash
from kevolve_core.registry import Registry, hookimpl
from kevolve_core.roofline import Ceilings, RooflineProfiler
from kevolve_core.space import Constraint, Parameter, Space
from kevolve_core.testing import ProbeKernels
from kevolve_toy.language import ToyRenderer, assemble, probe_kernels
from kevolve_toy.machine import BYTES, DTYPES, FREQUENCY, LANES, LAUNCH, MEMORY, SCRATCHPAD, run

MANIFEST = api.Manifest(
    name="toy",
    api_version=(1, 0),
    languages=("toy",),
    capabilities=frozenset({"compile", "run", "time", "profile", "synth", "counters"}),
    evidence="simulated",
    description="an imaginary vector accelerator, interpreted, with a cycle model",
)
CEILINGS = Ceilings(BYTES * FREQUENCY, LANES * FREQUENCY, LAUNCH / FREQUENCY)


class ToyCompiler(api.Compiler):
    def __init__(self) -> None:
        self.cache = BuildCache.of_user("kevolve-toy")

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        if target.arch != "toy1":
            raise UnsupportedError("the toy's compiler knows one architecture", got=target.arch, mend="toy1")
        program = assemble(candidate.files[candidate.entry], case.name).text()
        key = content_hash([program, target.arch])
        folder, cached = self.cache.keep(key, {"program.json": program})
        return Artifact(key, candidate.id, target, {candidate.entry: f"{folder}/program.json"}, cached=cached)


class ToyRunner(HostedRunner):
    dtypes = DTYPES

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()

    def allocate(self, dtype: str, elements: int) -> Any:
        if elements * DTYPES[dtype] > MEMORY:
            raise MemoryError(f"{elements} elements of {dtype} on a device of {MEMORY} bytes")
        return np.full(elements * DTYPES[dtype], 0xFF, np.uint8).view(dtype)  # NaN until it is written

    def write(self, memory: Any, content: Any) -> None:
        memory[:] = content.numpy()

    def read(self, memory: Any) -> Any:
        return memory.copy()

    def launch(self, kernel: list[Any], memory: Mapping[str, Any]) -> None:
        self.totals.update(run(kernel, memory))

    def timestamp(self) -> float:
        return float(self.totals["cycles"])

    def elapsed(self, start: float, end: float) -> float:
        return (end - start) / FREQUENCY

    def counters(self) -> Mapping[str, float]:
        return dict(self.totals)

    def synchronize(self) -> None:
        """A launch returns when its work has ended."""

    def flush_cache(self) -> None:
        """There is no cache."""

    def poison(self, nbytes: int) -> None:
        """New memory is full of NaN already."""


class ToyBackend(api.Backend):
    manifest = MANIFEST

    def probe(self) -> list[Device]:
        return [Device("toy:0", "toy", "Toy 1", Target("toy", "toy1"), MANIFEST.capabilities)]

    def compiler(self, device: Device) -> api.Compiler:
        return ToyCompiler()

    def runner(self, device: Device) -> api.Runner:
        return ToyRunner()

    def renderers(self) -> Mapping[str, api.Renderer]:
        return {"toy": ToyRenderer()}

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        inner = [axis.extent for axis in step.inner_axes] if isinstance(step, LoopNest) else []
        rows = SCRATCHPAD // (4 * max(inner, default=1))
        fits = Constraint("a tile fits the scratchpad", lambda p: p["tile"] * p["buffers"] <= max(rows, 2))
        default = max(tile for tile in (1, 16, 256) if tile <= max(rows, 1))
        tiles = Parameter("tile", (1, 16, 256, 4096), default)
        return Space((tiles, Parameter("buffers", (1, 2), 1)), (fits,))

    def profiler(self, device: Device) -> api.Profiler:
        return RooflineProfiler(CEILINGS, Evidence.SIMULATED, {"latency": "larger tiles issue less"})

    def knowledge(self) -> list[Path]:
        return [Path(__file__).parent / "knowledge"]

    def probe_kernels(self, device: Device) -> ProbeKernels:
        return probe_kernels()


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, lambda options: ToyBackend())
