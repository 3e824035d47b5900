"""Small hand-written kernels, and a compiler that no GPU is needed for."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only
from kevolve_nvidia.settings import Settings

#: For tests that need CuTe DSL.
installed = pytest.mark.skipif(
    importlib.util.find_spec("nvidia_cutlass_dsl") is None,
    reason="CuTe DSL is not installed: pip install 'kevolve-nvidia[cute]'",
)

SPEC = KernelSpec(
    "scale",
    Reference("def scale(x):\n    return 2 * x\n", "scale"),
    (
        Case("main", (InputSpec("x", (4096,), layouts=("contiguous", "offset")),)),
        Case("small", (InputSpec("x", (33,)),), weight=0.0),
    ),
)

CUDA = """
#include <cuda_fp16.h>
#include "factor.cuh"
extern "C" __global__ void __launch_bounds__(256) scale(const float* x, float* y, int n) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) y[i] = FACTOR * x[i];
}
"""

CUDA_PY = """
import torch
from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"scale": "ppi"})


def scale(x):
    y = torch.empty_like(x)
    kernels.scale(x.data_ptr(), y.data_ptr(), x.numel(), grid=(x.numel() + 255) // 256, block=256)
    return y
"""

TRITON = """
import torch
import triton
import triton.language as tl


@triton.jit
def _scale(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def scale(x):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _scale[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024, num_warps=4)
    return y
"""


def cuda_candidate(source: str = CUDA) -> Candidate:
    files = {"kernel.py": CUDA_PY, "kernel.cu": source, "factor.cuh": "#define FACTOR 2.0f\n"}
    return Candidate(files, "kernel.py", "cuda", symbol="scale")


def triton_candidate(source: str = TRITON) -> Candidate:
    return Candidate({"kernel.py": source}, "kernel.py", "triton")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NvidiaCompiler]:
    """Compiles for Hopper; its workers serve a module of tests."""
    cache: Path = tmp_path_factory.mktemp("cache")
    made = NvidiaCompiler(Settings(cache_dir=str(cache), compile_workers=1), compile_only("sm_90a"))
    yield made
    made.close()
