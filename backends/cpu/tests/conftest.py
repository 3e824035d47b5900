"""Small hand-written kernels and what builds and runs them."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.model import Artifact, Candidate, Device
from kevolve_cpu.compiler import CppCompiler
from kevolve_cpu.plugin import CpuBackend
from kevolve_cpu.runner import CpuRunner
from kevolve_cpu.settings import Settings

SPEC = KernelSpec("scale", Reference("", ""), (Case("all"),))

SCALE_CPP = """
#include <cstdint>
extern "C" void scale(const float* x, float* y, int64_t n, float a) {
#pragma omp parallel for
  for (int64_t i = 0; i < n; i++) y[i] = a * x[i];
}
"""

SCALE_PY = """
import torch
from kevolve_core.native import load_native

library = load_native("kernel.cpp", {"scale": "pplf"})

def scale(x):
    y = torch.empty_like(x)
    library.scale(x.data_ptr(), y.data_ptr(), x.numel(), 2.0)
    return y
"""


def _candidate(cpp: str = SCALE_CPP, py: str = SCALE_PY, more: Mapping[str, str] | None = None) -> Candidate:
    texts = {"kernel.cpp": cpp, "kernel.py": py, **(more or {})}
    return Candidate({name: text for name, text in texts.items() if text}, "kernel.py", "cpp")


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    """Makes a candidate that doubles a float32 tensor, from other sources where given."""
    return _candidate


@pytest.fixture(scope="session")
def device() -> Device:
    return CpuBackend({}).probe()[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def compiler(settings: Settings) -> CppCompiler:
    return CppCompiler(settings)


@pytest.fixture
def build(compiler: CppCompiler, device: Device) -> Callable[[Candidate], Artifact]:
    return lambda made: compiler.compile(made, SPEC, SPEC.cases[0], device.target)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[CpuRunner]:
    opened = CpuRunner(threads=2, llc_bytes=1 << 20)
    opened.open(tmp_path)
    yield opened
    opened.reset()


@pytest.fixture
def load(
    runner: CpuRunner, build: Callable[[Candidate], Artifact], tmp_path: Path
) -> Callable[[Candidate], object]:
    def loaded(made: Candidate) -> object:
        folder = tmp_path / made.id
        folder.mkdir(exist_ok=True)
        for name, text in made.files.items():
            (folder / name).write_text(text)
        return runner.load(build(made), folder)

    return loaded
