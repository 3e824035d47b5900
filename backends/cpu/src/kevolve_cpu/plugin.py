"""The plugin: what is registered, and the backend whose parts it makes on demand.

Importable without torch and without a compiler.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from kevolve_core.errors import KevolveError, ToolchainMissingError
from kevolve_core.interfaces import Baseline, Compiler, Manifest, Profiler, Renderer, Runner
from kevolve_core.model import Device, Target
from kevolve_core.registry import Registry, hookimpl
from kevolve_cpu.settings import OPTIONS_SCHEMA, Settings, user_cache

if TYPE_CHECKING:
    from kevolve_core.ir import Step
    from kevolve_core.kernelspec import KernelSpec
    from kevolve_core.space import Space
    from kevolve_core.testing import ProbeKernels

__all__ = ["MANIFEST", "CpuBackend", "kevolve_register"]

#: Environment of every worker, candidate's and baselines' alike; the README's section Allocator has the
#: measurements. One heap that is never given back, in large pages: otherwise a large result is mapped afresh
#: and faulted in page by page on each call, which times the kernel's page allocator. And short spinning:
#: libgomp's workers otherwise burn a core for milliseconds after a region, in the other side's turn.
_WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "GOMP_SPINCOUNT": "10000",
    "OMP_DYNAMIC": "FALSE",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}

MANIFEST = Manifest(
    name="cpu",
    api_version=(1, 0),
    languages=("cpp",),
    capabilities=frozenset({"compile", "run", "time", "profile", "synth", "counters"}),
    evidence="measured",
    options_schema=OPTIONS_SCHEMA,
    needs={"compile": {"programs": ["g++ or clang++"]}},
    worker_environment=_WORKER_ENVIRONMENT,
    description="CPUs: C++17 with OpenMP and vector code for the host's instruction set",
)


class CpuBackend:
    """See `kevolve_core.interfaces.Backend`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.settings = Settings.from_options(options)

    @property
    def manifest(self) -> Manifest:
        """`MANIFEST` with what the workers' environment takes from this backend's options and user: the
        thread count, and the folder of ``torch.compile``, which must outlive a worker: filling an empty one
        (ten test programs, one an instruction set) took 50 s on a busy 2-CPU host."""
        own = {
            "OMP_NUM_THREADS": str(self.settings.thread_count),
            "TORCHINDUCTOR_CACHE_DIR": str(user_cache() / "inductor"),
        }
        return attrs.evolve(MANIFEST, worker_environment={**MANIFEST.worker_environment, **own})

    def probe(self) -> Sequence[Device]:
        """This host, once. Without a compiler it can still run what was built before, and says so. Measured
        rates are among the facts where `measured` ran on this host before."""
        from kevolve_cpu.facts import host_facts, product_name
        from kevolve_cpu.peaks import cached_peaks
        from kevolve_cpu.toolchain import find_toolchain

        facts = host_facts() | {"threads": self.settings.thread_count}
        capabilities = set(MANIFEST.capabilities)
        try:
            facts["compiler"] = find_toolchain(self.settings).banner
        except ToolchainMissingError as error:
            facts["compiler_missing"] = str(error)
            capabilities -= {"compile", "synth"}
        target = Target("cpu", facts["arch"], {"extensions": facts["extensions"]})
        device = Device(
            id="cpu:0",
            backend="cpu",
            name=product_name(),
            target=target,
            capabilities=frozenset(capabilities),
            shares_host=True,
            facts=facts,
        )
        peaks = cached_peaks(device, self.settings)
        return (device if peaks is None else peaks.on(device),)

    def measured(self, device: Device) -> Device:
        """``device`` with its measured rates among the facts: cached, or measured now, which takes about two
        seconds of every core and should be done while nothing is timed. Raises `ToolchainMissingError`."""
        from kevolve_cpu.peaks import measure_peaks

        return measure_peaks(device, self.settings).on(device)

    def renderers(self) -> Mapping[str, Renderer]:
        from kevolve_cpu.render import CppRenderer

        return {"cpp": CppRenderer()}

    def compiler(self, device: Device) -> Compiler:
        from kevolve_cpu.compiler import CppCompiler

        del device
        return CppCompiler(self.settings)

    def runner(self, device: Device) -> Runner:
        from kevolve_cpu.runner import CpuRunner

        return CpuRunner(self.settings.thread_count, int(device.facts["llc_bytes"]))

    def profiler(self, device: Device) -> Profiler | None:
        from kevolve_cpu.profiler import CpuProfiler

        return CpuProfiler(device, self.settings)

    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[Baseline]:
        """Eager, and ``torch.compile`` where there is the C++ compiler it needs."""
        del spec
        found = [Baseline("eager", "eager", "kevolve_cpu.baselines:eager")]
        if "compile" in device.capabilities:
            found.append(Baseline("torch.compile", "compiled", "kevolve_cpu.baselines:compiled"))
        return tuple(found)

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        from kevolve_cpu.spaces import schedule_space

        return schedule_space(step, device, language)

    def standalone_loader(self, language: str) -> str:
        from kevolve_cpu.standalone import loader_source

        if language != "cpp":
            raise KevolveError(
                "the cpu backend exports no such language", got=language, mend="the language is 'cpp'"
            )
        return loader_source()

    def probe_kernels(self, device: Device) -> ProbeKernels:
        """What the conformance kit runs here."""
        from kevolve_cpu.probes import probe_kernels

        del device
        return probe_kernels()

    def knowledge(self) -> Iterable[Path]:
        """The pages installed with the package; in a source tree they lie beside ``src``."""
        package = Path(__file__).parent
        return tuple(p for p in (package / "knowledge", package.parents[1] / "knowledge") if p.is_dir())


@hookimpl
def kevolve_register(registry: Registry) -> None:
    """Add the backend to ``registry``."""
    registry.add_backend(MANIFEST, CpuBackend)
