"""Twelve problems, each with a kernel in Triton, in CUDA C++ and in CuTe DSL."""

from __future__ import annotations

from pathlib import Path

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.spec import load_spec
from kevolve_core.spec.sources import load_seed

__all__ = ["LANGUAGES", "PROBLEMS", "candidate_of", "spec_of"]

_FOLDER = Path(__file__).parent
#: Language -> the file or folder of its kernel, in each problem's folder.
LANGUAGES = {"triton": "triton_kernel.py", "cuda": "cuda", "cute": "cute_kernel.py"}
PROBLEMS = (
    "scale_bias", "gelu", "swiglu", "softmax", "layer_norm", "rms_norm", "row_sum", "transpose",
    "cross_entropy", "matmul", "matmul_bias_relu", "rotary",
)  # fmt: skip


def spec_of(problem: str) -> KernelSpec:
    return load_spec(_FOLDER / problem / "spec.yaml")


def candidate_of(problem: str, language: str) -> Candidate:
    """The hand-written kernel of ``problem`` in ``language``."""
    return load_seed(_FOLDER / problem / LANGUAGES[language], language=language, symbol=problem)
