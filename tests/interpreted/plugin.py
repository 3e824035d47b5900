"""A plugin for tests: Triton candidates under Triton's interpreter, on CPU tensors, in the real evaluator.

What it shows is source semantics (evidence ``interpreted``): there are no times.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kevolve_core.errors import CompileError
from kevolve_core.interfaces import API_VERSION, Baseline, Compiler, Manifest, Profiler, Renderer, Runner
from kevolve_core.model import Artifact, Candidate, Device, Target, content_hash
from kevolve_core.registry import Registry, hookimpl

if TYPE_CHECKING:
    from kevolve_core.ir import Step
    from kevolve_core.kernelspec import Case, KernelSpec
    from kevolve_core.space import Space

MANIFEST = Manifest(
    name="interpreted",
    api_version=API_VERSION,
    languages=("triton",),
    capabilities=frozenset({"compile", "run", "synth"}),
    evidence="interpreted",
    worker_environment={"TRITON_INTERPRET": "1"},
    description="Triton's interpreter",
)
DEVICE = Device(
    id="interpreted:0",
    backend="interpreted",
    name="Triton interpreter",
    target=Target("interpreted", "python"),
    capabilities=MANIFEST.capabilities,
    shares_host=True,
)


class InterpretedBackend:
    """See `kevolve_core.interfaces.Backend`."""

    manifest = MANIFEST

    def __init__(self, options: Mapping[str, Any]) -> None:
        del options

    def probe(self) -> Sequence[Device]:
        return (DEVICE,)

    def renderers(self) -> Mapping[str, Renderer]:
        from kevolve_core.languages.triton import TritonRenderer

        return {"triton": TritonRenderer()}

    def compiler(self, device: Device) -> Compiler:
        del device
        return InterpretedCompiler()

    def runner(self, device: Device) -> Runner:
        del device
        return InterpretedRunner()

    def profiler(self, device: Device) -> Profiler | None:
        del device
        return None

    def baselines(self, spec: KernelSpec, device: Device) -> Sequence[Baseline]:
        del spec, device
        return (Baseline("eager", "eager", "tests.interpreted.plugin:eager"),)

    def schedule_space(self, step: Step, device: Device, language: str) -> Space:
        from kevolve_core.languages.triton import TritonFacts, schedule_space

        del device, language
        return schedule_space(step, TritonFacts(processors=4))

    def standalone_loader(self, language: str) -> str:
        del language
        return ""

    def knowledge(self) -> Iterable[Path]:
        return ()


def eager(reference: Any) -> Any:
    """The reference itself."""
    return reference


class InterpretedCompiler:
    """There is nothing to build: Python has to parse, and the entry's name is noted."""

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        del spec, case
        for name, text in candidate.files.items():
            try:
                compile(text, name, "exec")
            except SyntaxError as error:
                raise CompileError("not valid Python", log=str(error), where=name) from error
        key = content_hash(dict(candidate.files))
        return Artifact(key, candidate.id, target, facts={"entry": candidate.entry})


class InterpretedRunner:
    """Buffers are CPU tensors. See `kevolve_core.interfaces.Runner`."""

    def __init__(self) -> None:
        self._loads = 0
        self._modules: list[str] = []

    def open(self, workdir: Path) -> None:
        del workdir
        sys.dont_write_bytecode = True
        from tests.interpreted.repairs import repair

        repair()

    def load(self, artifact: Artifact, candidate_dir: Path) -> ModuleType:
        self._loads += 1
        name = f"_candidate_{self._loads}"
        spec = importlib.util.spec_from_file_location(name, candidate_dir / str(artifact.facts["entry"]))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        self._modules.append(name)
        spec.loader.exec_module(module)
        return module

    def upload(self, tensor: Any, *, guarded: bool = False) -> Any:
        import torch

        del guarded
        if tensor.numel() == 0:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        extent = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        skip = tensor.storage_offset() % 64
        flat = torch.zeros(skip + extent, dtype=tensor.dtype)
        flat[skip:].copy_(tensor.as_strided((extent,), (1,)))
        return flat.as_strided(tensor.shape, tensor.stride(), skip)

    def download(self, buffer: Any) -> Any:
        return buffer.detach()

    def to_device(self, module: Any) -> Any:
        return module

    def synchronize(self) -> None:
        """Every call ends before it returns."""

    def timestamp(self) -> float:
        return 0.0

    def elapsed(self, start: float, end: float) -> float:
        return end - start

    def flush_cache(self) -> None:
        """There is no time to keep honest."""

    def poison(self, nbytes: int) -> None:
        import torch

        torch.empty(max(nbytes, 1), dtype=torch.uint8).fill_(255)

    def counters(self) -> Mapping[str, float]:
        return {}

    def foreign_activity(self) -> str:
        return ""

    def reset(self) -> None:
        for name in self._modules:
            sys.modules.pop(name, None)
        self._modules.clear()
        gc.collect()


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, InterpretedBackend)
