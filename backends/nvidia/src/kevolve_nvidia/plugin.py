"""The plugin: what is registered, and the backend whose parts it makes on demand.

Importable without torch, Triton, CUDA's libraries and a driver.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from kevolve_core.errors import KevolveError
from kevolve_core.interfaces import Baseline, Compiler, Manifest, Profiler, Renderer, Runner
from kevolve_core.model import Device
from kevolve_core.registry import Registry, hookimpl
from kevolve_nvidia.settings import OPTIONS_SCHEMA, Settings

if TYPE_CHECKING:
    from kevolve_core.ir import Step
    from kevolve_core.kernelspec import KernelSpec
    from kevolve_core.space import Space

__all__ = ["MANIFEST", "NvidiaBackend", "kevolve_register"]

#: Settings of the user's that decide which GPU a process sees; workers must see the same.
_PASSED = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


MANIFEST = Manifest(
    name="nvidia",
    api_version=(1, 0),
    languages=("triton", "cuda", "cute"),
    capabilities=frozenset({"compile", "run", "time", "profile", "synth", "counters"}),
    evidence="measured",
    options_schema=OPTIONS_SCHEMA,
    worker_environment={
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # The driver writes its cache of compiled PTX to HOME, which a confined worker may not.
        "CUDA_CACHE_DISABLE": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    },
    description="NVIDIA GPUs: Triton, CUDA C++ through NVRTC, PTX, and CuTe DSL",
)


class NvidiaBackend:
    """See `kevolve_core.interfaces.Backend`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.settings = Settings.from_options(options)

    @property
    def manifest(self) -> Manifest:
        """`MANIFEST` with what the workers' environment takes from this process and its user: which GPUs are
        visible, and the caches of Triton and ``torch.compile``, which must outlive a worker."""
        cache = self.settings.cache
        own = {name: os.environ[name] for name in _PASSED if name in os.environ}
        own |= {
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        }
        return attrs.evolve(MANIFEST, worker_environment={**MANIFEST.worker_environment, **own})

    def probe(self) -> Sequence[Device]:
        """The GPUs that the driver shows this process, then those that `Settings.compile_for` names, which
        have no other capability than to be compiled for. Measured rates are among the facts where `measured`
        ran on that GPU before."""
        from kevolve_nvidia.facts import compile_only, found_devices
        from kevolve_nvidia.peaks import cached_peaks

        held = {"hold_seconds": self.settings.queue_ahead_us * 1e-6}
        found = [
            device if (peaks := cached_peaks(device, self.settings)) is None else peaks.on(device)
            for device in found_devices(MANIFEST.capabilities, held)
        ]
        return (*found, *(compile_only(name) for name in self.settings.compile_for))

    def measured(self, device: Device) -> Device:
        """``device`` with its measured rates among the facts: cached, or measured now, which takes a few
        seconds of the GPU and should be done while nothing is timed."""
        from kevolve_nvidia.peaks import measure_peaks

        return measure_peaks(device, self.settings).on(device)

    def renderers(self) -> Mapping[str, Renderer]:
        from kevolve_nvidia.rendering import renderers

        return renderers()

    def compiler(self, device: Device) -> Compiler:
        from kevolve_nvidia.compiler import NvidiaCompiler

        return NvidiaCompiler(self.settings, device)

    def runner(self, device: Device) -> Runner:
        from kevolve_nvidia.runner import NvidiaRunner

        return NvidiaRunner(device, self.settings)

    def profiler(self, device: Device) -> Profiler | None:
        from kevolve_nvidia.profiler import NvidiaProfiler

        return NvidiaProfiler(device, self.settings)

    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[Baseline]:
        """Eager, and ``torch.compile``."""
        del spec, device
        return (
            Baseline("eager", "eager", "kevolve_nvidia.baselines:eager"),
            Baseline("torch.compile", "compiled", "kevolve_nvidia.baselines:compiled"),
        )

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        from kevolve_nvidia.rendering import schedule_space

        return schedule_space(step, device, language)

    def standalone_loader(self, language: str) -> str:
        from kevolve_nvidia.standalone import loader_source

        if language not in MANIFEST.languages:
            raise KevolveError(
                "the nvidia backend exports no such language",
                got=language,
                mend=f"languages are {', '.join(MANIFEST.languages)}",
            )
        return loader_source()

    def knowledge(self) -> Iterable[Path]:
        """The pages installed with the package; in a source tree they lie beside ``src``."""
        package = Path(__file__).parent
        return tuple(p for p in (package / "knowledge", package.parents[1] / "knowledge") if p.is_dir())


@hookimpl
def kevolve_register(registry: Registry) -> None:
    """Add the backend to ``registry``."""
    registry.add_backend(MANIFEST, NvidiaBackend)
