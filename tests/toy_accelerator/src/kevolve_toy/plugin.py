"""What the plugin registers: the manifest, the device, the parts, and the six probe kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kevolve_core.errors import UnsupportedError
from kevolve_core.interfaces import Baseline, Compiler, Manifest, Profiler, Renderer, Runner, Work
from kevolve_core.ir import LoopNest, Step
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Evidence, Profile, Roofline, Target
from kevolve_core.registry import Registry, hookimpl
from kevolve_core.space import Constraint, Parameter, Space
from kevolve_core.testing import PROBE_SYMBOL, ProbeKernels

MANIFEST = Manifest(
    name="toy",
    api_version=(1, 0),
    languages=("toy",),
    capabilities=frozenset({"compile", "run", "time", "profile", "synth", "counters"}),
    evidence="simulated",
    description="an imaginary vector accelerator, interpreted, with a cycle model",
)
DEVICE = Device("toy:0", "toy", "Toy 1", Target("toy", "toy1"), MANIFEST.capabilities)


class ToyBackend:
    """See `kevolve_core.interfaces.Backend`. What needs NumPy or torch is imported when it is asked for."""

    manifest = MANIFEST

    def __init__(self, options: Mapping[str, Any]) -> None:
        del options

    def probe(self) -> Sequence[Device]:
        return (DEVICE,)

    def compiler(self, device: Device) -> Compiler:
        from kevolve_toy.compiler import ToyCompiler

        return ToyCompiler()

    def runner(self, device: Device) -> Runner:
        from kevolve_toy.runner import ToyRunner

        return ToyRunner()

    def profiler(self, device: Device) -> Profiler | None:
        return ToyProfiler()

    def renderers(self) -> Mapping[str, Renderer]:
        from kevolve_toy.renderer import ToyRenderer

        return {"toy": ToyRenderer()}

    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[Baseline]:
        return ()  # PyTorch does not run here: kernels are held against the unfused program

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        if not isinstance(step, LoopNest):
            return Space()
        inner = 4 * max(1, *(a.extent for a in step.inner_axes), 1)
        fits = Constraint(
            "a tile and its second buffer fit 256 KiB of scratchpad",
            lambda p: p["tile"] == 1 or p["tile"] * inner * p["buffers"] <= 1 << 18,
        )
        tiles = (1, 4, 16, 64, 256, 1024, 4096, 16384)
        default = max(t for t in tiles[:3] if t == 1 or t * inner <= 1 << 18)
        return Space((Parameter("tile", tiles, default), Parameter("buffers", (1, 2), 1)), (fits,))

    def standalone_loader(self, language: str) -> str:
        raise UnsupportedError("the toy exists in this package alone", got=language, mend="ship kernel.toy")

    def knowledge(self) -> Iterable[Path]:
        here = Path(__file__).parent
        return tuple(p for p in (here / "knowledge", here.parents[1] / "knowledge") if p.is_dir())

    def probe_kernels(self, device: Device) -> ProbeKernels:
        n = 1 << 18
        copy = "ld r0 x 0 [1]\nst y 0 [1] r0"
        return ProbeKernels(
            elements=n,
            copy=_probe(n, copy),
            copy_twice=_probe(2 * n, copy),
            empty=_probe(n, "imm r0 0 float32"),
            out_of_range=_probe(n, f"ld r0 x {n} [1]\nst y 0 [1] r0"),
            endless=_probe(n, "imm r0 0 float32\njmp 0"),
            oversized=_probe(n, copy, ".buffer big temp - float32 [1000000000]"),
        )


def _probe(n: int, code: str, more: str = "") -> Candidate:
    text = (
        f".entry {PROBE_SYMBOL}\n.case *\n.buffer x input 0 float32 [{n}]\n.buffer y output - float32 [{n}]\n"
        f"{more}\n.kernel probe [{n}] 1024 1\n{code}\n.output y 0 [{n}] [1]\n.return 0\n"
    )
    return Candidate({"kernel.toy": text}, "kernel.toy", "toy", PROBE_SYMBOL)


class ToyProfiler:
    """See `kevolve_core.interfaces.Profiler`. The ceilings are those of the cycle model."""

    bandwidth, flops, launch = 64e9, 64e9, 2e-6

    def floor(self, work: Work) -> float:
        return work.bytes / self.bandwidth + self.launch

    def profile(
        self, spec: KernelSpec, case: Case, work: Work, seconds: float, artifact: Artifact,
        counters: Mapping[str, float],
    ) -> Profile:  # fmt: skip
        shares = {
            "memory": work.bytes / self.bandwidth,
            "compute": work.flops / self.flops,
            "latency": self.launch,
        }
        bottleneck = max(shares, key=lambda name: shares[name])
        bound = shares[bottleneck]
        roofline = Roofline(work.bytes, work.flops, self.bandwidth, self.flops, bound, bound / seconds)
        hints = {
            "memory": "bytes_read and bytes_written bound it: load each element once",
            "compute": "arithmetic bounds it: two buffers hide the loads behind it",
            "latency": "launches bound it: fuse kernels",
        }
        return Profile(Evidence.SIMULATED, dict(counters), roofline, bottleneck, (hints[bottleneck],))


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, ToyBackend)
