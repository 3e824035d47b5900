import subprocess
import sys
from pathlib import Path

import pytest

from kevolve_core.errors import CompileError, UnsupportedError
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.model import Candidate
from kevolve_nvidia import compiler as compilers
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import target_of

from .conftest import SPEC, installed

MAIN = SPEC.cases[0]

CUTE = """
import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

FACTOR = 2.0


@cute.kernel
def twice(x: cute.Tensor, y: cute.Tensor):
    i = cute.arch.block_idx()[0] * 128 + cute.arch.thread_idx()[0]
    if i < x.shape[0]:
        y[i] = x[i] * FACTOR


@cute.jit
def launch(x: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    blocks = cute.ceil_div(x.shape[0], 128)
    twice(x, y).launch(grid=(blocks, 1, 1), block=(128, 1, 1), stream=stream)


def scale(x):
    y = torch.empty_like(x)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    arguments = from_dlpack(x, assumed_align=4), from_dlpack(y, assumed_align=16), stream
    cute.compile(launch, *arguments)(*arguments)
    return y
"""


def candidate(source: str = CUTE) -> Candidate:
    return Candidate({"kernel.py": source}, "kernel.py", "cute")


@installed
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
def test_cute_compiles_to_a_cubin_without_a_gpu(compiler: NvidiaCompiler, arch: str) -> None:
    artifact = compiler.compile(candidate(), SPEC, MAIN, target_of(arch))
    assert [Path(path).suffix for path in artifact.binaries.values()] == [".o"]
    facts = artifact.facts["kernels"]["launch-0"]
    assert (facts["threads_per_block"], facts["spill_bytes"], facts["occupancy"]) == (128, 0, 1.0)
    assert (facts["ptx"]["load_global"], facts["sass"]["store_global"]) == (1, 1)


@installed
def test_a_second_build_of_cute_comes_from_the_cache(compiler: NvidiaCompiler) -> None:
    target = target_of("sm_90a")
    first = compiler.compile(candidate(), SPEC, MAIN, target)
    again = NvidiaCompiler(compiler.settings, compiler.device)
    second = again.compile(candidate(), SPEC, MAIN, target)
    again.close()
    assert (second.key, second.cached, second.facts) == (first.key, True, first.facts)


@installed
def test_a_refused_kernel_is_a_compile_error_with_the_words_of_the_dsl(compiler: NvidiaCompiler) -> None:
    with pytest.raises(CompileError, match="'launch'") as raised:
        compiler.compile(candidate(CUTE.replace("FACTOR\n\n", "oops\n\n")), SPEC, MAIN, target_of("sm_90a"))
    assert "oops" in raised.value.log


@installed
def test_a_jit_function_called_as_it_is_is_refused(compiler: NvidiaCompiler) -> None:
    source = CUTE.replace("cute.compile(launch, *arguments)(*arguments)", "launch(*arguments)")
    with pytest.raises(CompileError, match="recorded"):
        compiler.compile(candidate(source), SPEC, MAIN, target_of("sm_90a"))


@installed
def test_a_candidate_without_a_kernel_is_refused(compiler: NvidiaCompiler) -> None:
    with pytest.raises(CompileError, match=r"compiles no CuTe DSL kernel") as raised:
        compiler.compile(candidate("def scale(x):\n    return x + x\n"), SPEC, MAIN, target_of("sm_90a"))
    assert "cutlass.cute.compile" in raised.value.log


def test_without_the_dsl_a_candidate_is_unsupported(
    compiler: NvidiaCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "toolchain", lambda _: {"torch": "2"})
    with pytest.raises(UnsupportedError, match="not installed") as raised:
        compiler.compile(candidate(), SPEC, MAIN, target_of("sm_90a"))
    assert raised.value.mend == "pip install 'kevolve-nvidia[cute]'"


def test_the_rules_let_the_dsl_through_and_keep_its_insides_out() -> None:
    assert check_candidate(candidate()) == ()
    for line in ("import cutlass.cute.testing", "from cutlass.cute.runtime import load_module"):
        assert [v.line for v in check_candidate(candidate(f"{line}\n{CUTE}"))] == [1]


@installed
def test_what_was_compiled_ahead_is_found_where_it_runs(compiler: NvidiaCompiler) -> None:
    artifact = compiler.compile(candidate(), SPEC, MAIN, target_of("sm_90a"))
    found = run(RUNS, str(artifact.facts["folder"]), str(tuple(SPEC.cases[0].inputs[0].shape or ())))
    assert found == ["CudaDialectJitCompiledFunction", "compiled ahead"]


#: A confined process, as the one that launches: it may write nothing and start nothing.
RUNS = """
import sys
from ast import literal_eval
from pathlib import Path

import torch

from kevolve_core.errors import KevolveError
from kevolve_core.isolate import sandbox
from kevolve_nvidia.cutedsl.ahead import CUTE_FOLDER, running_from

sandbox.confine()
folder, shape = Path(sys.argv[1]), literal_eval(sys.argv[2])
with running_from(folder / CUTE_FOLDER):
    sys.path.insert(0, str(folder / "source"))
    import kernel

    x, y = torch.zeros(shape), torch.zeros(shape)
    stream = kernel.cuda.CUstream(0)
    given = kernel.from_dlpack(x, assumed_align=4), kernel.from_dlpack(y, assumed_align=16), stream
    print(type(kernel.cute.compile(kernel.launch, *given)).__name__)
    try:
        kernel.cute.compile(kernel.launch, given[0], kernel.from_dlpack(y.double(), assumed_align=16), stream)
    except KevolveError as error:
        print("compiled ahead" if "not compiled ahead" in error.what else error)
"""


def run(source: str, *arguments: str) -> list[str]:
    """What a script prints, a line each."""
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]
