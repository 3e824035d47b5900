"""What the plugin registers: the manifest, the device, the profiler, and the six probe kernels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kevolve_core import interfaces as api
from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import LoopNest, Step
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evidence, Profile, Roofline, Target
from kevolve_core.registry import Registry, hookimpl
from kevolve_core.space import Constraint, Parameter, Space
from kevolve_core.testing import PROBE_SYMBOL, ProbeKernels
from kevolve_toy.compiler import ToyCompiler
from kevolve_toy.machine import BYTES, FREQUENCY, LANES, LAUNCH, SCRATCHPAD

MANIFEST = api.Manifest(
    name="toy",
    api_version=(1, 0),
    languages=("toy",),
    capabilities=frozenset({"compile", "run", "time", "profile", "synth", "counters"}),
    evidence="simulated",
    description="an imaginary vector accelerator, interpreted, with a cycle model",
)


class ToyBackend:
    """See `kevolve_core.interfaces.Backend`. What needs torch is imported when it is asked for."""

    manifest = MANIFEST

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kevolve-toy"

    def probe(self) -> Sequence[Device]:
        return (Device("toy:0", "toy", "Toy 1", Target("toy", "toy1"), MANIFEST.capabilities),)

    def compiler(self, device: Device) -> api.Compiler:
        return ToyCompiler(self.cache)

    def runner(self, device: Device) -> api.Runner:
        from kevolve_toy.runner import ToyRunner

        return ToyRunner()

    def profiler(self, device: Device) -> api.Profiler | None:
        return ToyProfiler()

    def renderers(self) -> Mapping[str, api.Renderer]:
        from kevolve_toy.renderer import ToyRenderer

        return {"toy": ToyRenderer()}

    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[api.Baseline]:
        return ()  # PyTorch does not run here: kernels are held against the unfused program

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        row = 4 * max((a.extent for a in step.inner_axes), default=1) if isinstance(step, LoopNest) else 4
        fits = Constraint(
            "a tile fits the scratchpad, twice with two buffers",
            lambda p: p["tile"] == 1 or p["tile"] * row * p["buffers"] <= SCRATCHPAD,
        )
        default = max(tile for tile in (1, 16, 256) if tile == 1 or tile * row <= SCRATCHPAD)
        tiles = Parameter("tile", (1, 16, 256, 4096), default)
        return Space((tiles, Parameter("buffers", (1, 2), 1)), (fits,))

    def standalone_loader(self, language: str) -> str:
        raise UnsupportedError("the toy exists in this package alone", got=language, mend="ship kernel.toy")

    def knowledge(self) -> Iterable[Path]:
        here = Path(__file__).parent
        return tuple(p for p in (here / "knowledge", here.parents[1] / "knowledge") if p.is_dir())

    def probe_kernels(self, device: Device) -> ProbeKernels:
        n = 1 << 18
        load, store, zero = ["ld", "r0", "x", 0, [1]], ["st", "y", 0, [1], "r0"], ["imm", "r0", 0, "float32"]
        return ProbeKernels(
            elements=n,
            copy=_probe(n, load, store),
            copy_twice=_probe(2 * n, load, store),
            empty=_probe(n, zero),
            out_of_range=_probe(n, ["ld", "r0", "x", n, [1]], store),
            endless=_probe(n, zero, ["jmp", 0]),
            oversized=_probe(n, load, store, before=[["buffer", "big", "temp", "", "float32", [10**9]]]),
        )


def _probe(n: int, *code: list[Any], before: Sequence[list[Any]] = ()) -> Candidate:
    buffers = [["buffer", "x", "input", "0", "float32", [n]], ["buffer", "y", "output", "", "float32", [n]]]
    head = [["entry", PROBE_SYMBOL], ["case", "copy"], *buffers, *before, ["kernel", [n], 4096, 1]]
    lines = [*head, *code, ["return", 0, [["y", [n], [1], 0]]]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Candidate({"kernel.toy": text}, "kernel.toy", "toy", PROBE_SYMBOL)


class ToyProfiler:
    """See `kevolve_core.interfaces.Profiler`. The ceilings are those of the cycle model."""

    def floor(self, work: api.Work) -> float:
        return work.bytes / (BYTES * FREQUENCY) + LAUNCH / FREQUENCY

    def profile(
        self, spec: KernelSpec, case: Case, work: api.Work, seconds: float, artifact: Artifact,
        counters: Mapping[str, float],
    ) -> Profile:  # fmt: skip
        memory, compute = BYTES * FREQUENCY, LANES * FREQUENCY
        bounds = {
            "memory": work.bytes / memory,
            "compute": work.flops / compute,
            "latency": LAUNCH / FREQUENCY,
        }
        bottleneck = max(bounds, key=lambda name: bounds[name])
        bound = bounds[bottleneck]
        roofline = Roofline(work.bytes, work.flops, memory, compute, bound, bound / seconds)
        hint = f"{bottleneck} bounds it; larger tiles issue less, two buffers overlap loads and arithmetic"
        return Profile(Evidence.SIMULATED, counters, roofline, bottleneck, (hint,))


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, ToyBackend)
