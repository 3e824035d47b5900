"""Compiles and runs rendered candidates for the tests, with g++ alone."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from kevolve_core.ir import Axis, Buffer, LoopNest, OutputRef, Program, Statement
from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.model import Candidate
from kevolve_core.native import binding
from kevolve_cpu.render import CppRenderer

FLAGS = [
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
]
CODES = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_long,
    "i": ctypes.c_int,
    "d": ctypes.c_double,
    "f": ctypes.c_float,
}
CACHE = Path(tempfile.gettempdir()) / "kevolve-render-tests"


def build(text: str) -> Path:
    """A shared library of C++ ``text``."""
    CACHE.mkdir(exist_ok=True)
    key = hashlib.sha256((text + " ".join(FLAGS)).encode()).hexdigest()[:16]
    library = CACHE / f"{key}.so"
    if not library.exists():
        source = CACHE / f"{key}.cpp"
        source.write_text(text)
        done = subprocess.run(
            ["g++", *FLAGS, str(source), "-o", str(library) + ".part"], capture_output=True, text=True
        )
        if done.returncode or "warning" in done.stderr:
            numbered = "\n".join(f"{i:4} {line}" for i, line in enumerate(text.splitlines(), 1))
            raise AssertionError(f"{done.stderr[:6000]}\n{numbered}")
        Path(str(library) + ".part").rename(library)
    return library


def load(candidate: Candidate) -> ModuleType:
    """The candidate's entry module, with its native files built."""

    def loader(file: str, functions: Mapping[str, str]) -> Any:
        library = ctypes.CDLL(str(build(candidate.files[file])))
        opened = SimpleNamespace()
        for name, codes in functions.items():
            function = getattr(library, name)
            function.argtypes = [CODES[c] for c in codes]
            function.restype = None
            setattr(opened, name, function)
        return opened

    module = ModuleType("kernel")
    with binding(loader):
        exec(compile(candidate.files["kernel.py"], "kernel.py", "exec"), module.__dict__)
    return module


def spec(
    source: str = "def f(*a): ...", symbol: str = "f", kind: str = "function", name: str = "test"
) -> KernelSpec:
    return KernelSpec(name, Reference(source, symbol, kind), (Case("main"),))


def program(
    *steps: Any, buffers: list[Buffer], outputs: list[str] | None = None, case: str = "main"
) -> Program:
    table = {b.name: b for b in buffers}
    outputs = outputs or [b.name for b in buffers if b.role == "output"]
    refs = tuple(OutputRef(n, table[n].shape, table[n].stride) for n in outputs)
    return Program(case, table, steps, refs, 0 if len(refs) == 1 else tuple(range(len(refs))))


def nest(
    name: str, axes: Mapping[str, int], outer: int, *body: Statement, anchor: str = "pointwise"
) -> LoopNest:
    return LoopNest(name, tuple(Axis(a, n) for a, n in axes.items()), outer, body, (name,), anchor)


def render(p: Program, choices: Mapping[str, Any] | None = None) -> Candidate:
    """``p`` rendered with one point for all steps."""
    names = [s.name for s in p.steps]
    return CppRenderer().render(spec(), [p], {n: choices or {} for n in names})


def run(p: Program, inputs: list[Any], choices: Mapping[str, Any] | None = None) -> Any:
    """The program's results on ``inputs``."""
    return load(render(p, choices)).f(*inputs)
