"""The kernels' semantics without a GPU: CUDA C++ through a C++ compiler, Triton through its interpreter, CuTe
DSL through a stand-in for it (`cute_on_cpu`), which has no tensor cores: its two products are left out.

    python -m benchmarks.three_languages.on_cpu [cuda] [triton] [cute] [--only TEXT] [--cases NAME…]

Prints a line of JSON a problem and case. What it judges by is the evaluator's tolerance, on every kind of
input that the evaluator draws. The timed case is large: it is left out.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if "triton" in sys.argv[1:]:  # read when Triton is imported
    os.environ["TRITON_INTERPRET"] = "1"

import torch

from kevolve_core.evaluate.tolerance import baseline_leaf, compare
from kevolve_core.isolate.entry import EntryModules
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.native import binding
from kevolve_core.spec.runtime import draw_inputs, in_float64, load_reference, variants

from . import PROBLEMS, candidate_of, spec_of
from .cute_on_cpu import standing_in

_SHIM = Path(__file__).with_name("cuda_on_cpu.h")
_C_TYPES = {"p": "void*", "l": "long long", "i": "int", "d": "double", "f": "float"}
_EX2 = r'asm\("ex2\.approx\.ftz\.f32[^;"]*;" : "=f"\((\w+)\) : "f"\((\w+)\)\);'


def on_cpu(text: str) -> str:
    """A kernel's source for the shim: its headers, shared memory and inline PTX in C++'s words."""
    text = re.sub(r"#include <(cuda_bf16|mma)\.h>\n", "", text)
    text = re.sub(r"extern __shared__ float4 memory\[\];", "", text)
    text = text.replace("__shared__", "static")
    text = re.sub(_EX2, r"\1 = std::exp2f(\2);", text)
    if left := re.search(r"\basm\b", text):
        raise ValueError(f"inline PTX that has no counterpart here: {text[left.start() :][:60]}")
    return text


def emulated(candidate: Candidate, folder: Path) -> Callable[[str, Mapping[str, str]], Any]:
    """What `load_native` gives: each native file built with g++, its kernels as functions."""

    def load(file: str, functions: Mapping[str, str]) -> Any:
        source = [f'#include "{_SHIM}"', on_cpu(candidate.files[file])]
        for name, codes in functions.items():
            given = ", ".join(f"{_C_TYPES[c]} a{i}" for i, c in enumerate(codes))
            passed = ", ".join(f"Pointer{{a{i}}}" if c == "p" else f"a{i}" for i, c in enumerate(codes))
            source.append(
                f'extern "C" void run_{name}(const int* grid, const int* block, {given}) '
                f"{{ launched(grid, block, [&] {{ {name}({passed}); }}); }}"
            )
        path, built = folder / "kernel.cpp", folder / "kernel.so"
        path.write_text("\n".join(source))
        command = ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"]
        subprocess.run([*command, str(path), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))
        return SimpleNamespace(**{n: _called(library, n, codes) for n, codes in functions.items()})

    return load


def _called(library: Any, name: str, codes: str) -> Callable[..., None]:
    types = {"p": ctypes.c_void_p, "l": ctypes.c_longlong, "i": ctypes.c_int, "d": ctypes.c_double,
             "f": ctypes.c_float}  # fmt: skip
    three = ctypes.c_int * 3

    def call(*arguments: Any, grid: Any, block: Any, shared: int = 0) -> None:
        assert shared <= 48 << 10, "more than a kernel has without asking for it"
        sizes = [three(*([*(n if isinstance(n, tuple) else (n,)), 1, 1][:3])) for n in (grid, block)]
        given = [types[c](v) for c, v in zip(codes, arguments, strict=True)]
        getattr(library, f"run_{name}")(*sizes, *given)

    return call


def wrong(spec: KernelSpec, case: Case, call: Callable[..., Any]) -> str:
    """Why ``call`` is no right answer to ``case`` (its variant first), or ""."""
    reference = load_reference(spec, case, 0)
    exact = in_float64(reference)
    for variant in variants(spec, case):
        inputs = draw_inputs(spec, case, 7, variant)
        # Not all of the result is written by chance: what is missed stays NaN or is another memory's.
        got = call(*[v.clone() if isinstance(v, torch.Tensor) else v for v in inputs])
        eager, answer = reference.call(*inputs), exact.call(*inputs)
        if (got.shape, got.dtype, got.stride()) != (eager.shape, eager.dtype, eager.stride()):
            return f"{variant}: the result is {tuple(got.shape)} {got.dtype}"
        if mismatch := compare(got, answer, baseline_leaf(eager, answer), spec.precision):
            return f"{variant}: {mismatch.reason} {mismatch.detail()}"
    return ""


def _interpreted() -> None:
    """Triton's interpreter with its faults repaired, and with the one instruction of inline PTX."""
    import numpy as np
    from triton.runtime import interpreter

    from tests.interpreted.repairs import repair

    repair()

    def inline(self: Any, text: str, constraints: str, values: Any, kind: Any, pure: bool, pack: int) -> Any:
        del self, constraints, kind, pure, pack
        if text != "ex2.approx.ftz.f32 $0, $1;":
            raise NotImplementedError(text)
        power = interpreter.TensorHandle(np.exp2(values[0].data), values[0].dtype.scalar)
        return SimpleNamespace(get_result=lambda _: power)

    interpreter.InterpreterBuilder.create_inline_asm = inline


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("languages", nargs="+", choices=("cuda", "triton", "cute"))
    parser.add_argument("--only", default="", help="problems whose name contains this")
    parser.add_argument("--cases", nargs="+", default=["ragged", "holdout"], help="by name")
    options = parser.parse_args()
    if "triton" in options.languages:
        _interpreted()
    # What `empty` gives is NaN (or a large number), so that nothing is right by luck.
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for name in (p for p in PROBLEMS if options.only in p):
        spec = spec_of(name)
        for language in options.languages:
            if language == "cute" and name.startswith("matmul"):
                continue
            candidate = candidate_of(name, language)
            with tempfile.TemporaryDirectory() as scratch, standing_in(), torch.no_grad():
                folder = Path(scratch)
                for file, text in candidate.files.items():
                    (folder / file).write_text(text)
                modules = EntryModules()
                with binding(emulated(candidate, folder)):
                    module = modules.load(folder, candidate.entry)
                for case in (c for c in spec.cases if c.name in options.cases):
                    said = wrong(spec, case, getattr(module, spec.reference.symbol))
                    row = {"problem": name, "language": language, "case": case.name, "wrong": said}
                    print(json.dumps(row), flush=True)
                modules.reset()


if __name__ == "__main__":
    main()
