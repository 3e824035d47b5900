import re
from pathlib import Path

import attrs
import pytest

from kevolve_core.errors import CompileError, KevolveError, UnsupportedError
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.languages.triton import TritonRenderer
from kevolve_core.model import Candidate
from kevolve_core.spec import load_spec
from kevolve_core.synth import SynthGenerator
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, target_of
from kevolve_nvidia.rendering import schedule_space
from kevolve_nvidia.settings import Settings
from kevolve_nvidia.signature import signature_of

from .conftest import CUDA, SPEC, TRITON, cuda_candidate, triton_candidate

MAIN = SPEC.cases[0]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
def test_cuda_compiles_to_a_cubin_without_a_gpu(compiler: NvidiaCompiler, arch: str) -> None:
    artifact = compiler.compile(cuda_candidate(), SPEC, MAIN, target_of(arch))
    with open(artifact.binaries["kernel.cu"], "rb") as file:
        assert file.read(4) == b"\x7fELF"
    facts = artifact.facts["kernels"]["scale"]
    assert (facts["threads_per_block"], facts["spill_bytes"], facts["occupancy"]) == (256, 0, 1.0)
    assert facts["ptx"]["load_global"] == 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
def test_triton_compiles_for_every_layout_of_a_case(compiler: NvidiaCompiler, arch: str) -> None:
    artifact = compiler.compile(triton_candidate(), SPEC, MAIN, target_of(arch))
    # A view that begins one element in is not aligned, so it has a kernel of its own.
    assert sorted(artifact.binaries) == ["_scale-0", "_scale-1"]
    wide = [f["sass"].get("wide_load_global", 0) for f in artifact.facts["kernels"].values()]
    assert sorted(bool(n) for n in wide) == [False, True]
    assert artifact.facts["launches"][0]["grid"] == [4, 1, 1]


def test_a_second_build_comes_from_the_cache(compiler: NvidiaCompiler) -> None:
    target = target_of("sm_90a")
    first = compiler.compile(cuda_candidate(), SPEC, MAIN, target)
    again = NvidiaCompiler(compiler.settings, compiler.device)
    second = again.compile(cuda_candidate(), SPEC, MAIN, target)
    again.close()
    assert (second.key, second.cached, second.facts) == (first.key, True, first.facts)


def test_a_kernel_is_compiled_once_for_all_candidates_that_have_it(compiler: NvidiaCompiler) -> None:
    """The second one stands further down in its file, so that Triton has another key for it."""
    target = target_of("sm_90a")
    first = compiler.compile(triton_candidate(), SPEC, MAIN, target)
    kept = sorted(p.name for p in (compiler.settings.cache / "kernels" / "builds").glob("??/*"))
    second = compiler.compile(triton_candidate("# another candidate\n\n" + TRITON), SPEC, MAIN, target)
    after = sorted(p.name for p in (compiler.settings.cache / "kernels" / "builds").glob("??/*"))
    cubins = [{n: Path(f).read_bytes() for n, f in a.binaries.items()} for a in (first, second)]
    keys = [{p.name for p in (Path(a.facts["folder"]) / "triton").iterdir()} for a in (first, second)]
    assert (second.cached, after, cubins[0]) == (False, kept, cubins[1])
    assert (len(keys[0]), len(keys[1]), keys[0] & keys[1]) == (2, 2, set())


_THREE = """
import torch
import triton
import triton.language as tl


@triton.jit
def _first(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def _twin(left, right, count, BLOCK: tl.constexpr):
    # the same under other names
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(right + at, 2 * tl.load(left + at, mask=at < count), mask=at < count)


@triton.jit
def _other(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, 3 * tl.load(x + i, mask=i < n), mask=i < n)


def scale(x):
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(x.numel(), 1024),)
    _first[grid](x, y, x.numel(), BLOCK=1024, num_warps=4)
    _twin[grid](x, y, x.numel(), BLOCK=1024, num_warps=4)
    _other[grid](x, y, x.numel(), BLOCK=1024, num_warps=4)
    return y
"""


def test_steps_that_are_the_same_kernel_are_compiled_once(tmp_path: Path) -> None:
    """Whatever they and their variables are called; another number in it is another kernel."""
    made = NvidiaCompiler(Settings(cache_dir=str(tmp_path), compile_workers=1), compile_only("sm_90a"))
    try:
        artifact = made.compile(triton_candidate(_THREE), SPEC, MAIN, target_of("sm_90a"))
    finally:
        made.close()
    assert (len(artifact.binaries), len(list((tmp_path / "kernels" / "builds").glob("??/*")))) == (6, 4)


_HUGE = """
import torch


class Model(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.inner = torch.nn.Linear(n, n)
        self.register_buffer("ones", torch.ones(3))

    def forward(self, x):
        return self.inner(x) + {more}


def get_inputs():
    return [torch.rand(2, {n})]


def get_init_inputs():
    return [{n}]
"""


@pytest.mark.parametrize(("n", "more"), [(1 << 20, "0"), (4, "float(self.ones.sum())")])
def test_a_signature_takes_no_data_where_the_reference_needs_none(tmp_path: Path, n: int, more: str) -> None:
    """The first has four terabytes of weights; the second looks at values and is loaded with them."""
    path = tmp_path / "model.py"
    path.write_text(_HUGE.format(n=n, more=more))
    spec = load_spec(path)
    found = signature_of(spec, spec.cases[0])
    shapes = {name: leaf["shape"] for name, leaf in found["state"].items()}
    assert shapes == {"inner.weight": [n, n], "inner.bias": [n], "ones": [3]}


def test_another_option_is_another_build(compiler: NvidiaCompiler) -> None:
    target = target_of("sm_90a")
    settings = attrs.evolve(compiler.settings, nvrtc_flags=("--use_fast_math",))
    other = NvidiaCompiler(settings, compiler.device)
    other._pool = compiler._pool
    keys = {c.compile(cuda_candidate(), SPEC, MAIN, target).key for c in (compiler, other)}
    assert len(keys) == 2


def test_a_refused_source_is_a_compile_error_with_the_log(compiler: NvidiaCompiler) -> None:
    with pytest.raises(CompileError) as raised:
        compiler.compile(cuda_candidate(CUDA.replace("FACTOR *", "oops *")), SPEC, MAIN, target_of("sm_90a"))
    assert 'identifier "oops" is undefined' in raised.value.log


def test_a_refused_triton_kernel_is_a_compile_error(compiler: NvidiaCompiler) -> None:
    bad = TRITON.replace("2 * tl.load", "tl.dot(x, y) * tl.load")
    with pytest.raises(CompileError) as raised:
        compiler.compile(triton_candidate(bad), SPEC, MAIN, target_of("sm_90a"))
    assert "tl.dot" in raised.value.log


def test_host_code_that_raises_is_a_compile_error(compiler: NvidiaCompiler) -> None:
    bad = TRITON.replace("    y = torch", '    raise ValueError("as written")\n    y = torch')
    with pytest.raises(CompileError, match="recorded") as raised:
        compiler.compile(triton_candidate(bad), SPEC, MAIN, target_of("sm_90a"))
    assert "as written" in raised.value.log


def test_a_ptx_file_is_assembled(compiler: NvidiaCompiler) -> None:
    ptx = (
        ".version 8.0\n.target sm_80\n.address_size 64\n"
        ".visible .entry scale(.param .u64 x, .param .u64 y, .param .u32 n) { ret; }\n"
    )
    files = {"kernel.py": "", "kernel.ptx": ptx}
    artifact = compiler.compile(Candidate(files, "kernel.py", "cuda"), SPEC, MAIN, target_of("sm_90a"))
    assert list(artifact.facts["kernels"]) == ["scale"]


def test_a_language_of_another_backend_is_unsupported(compiler: NvidiaCompiler) -> None:
    with pytest.raises(UnsupportedError, match="compiles no such language"):
        compiler.compile(Candidate({"k.py": ""}, "k.py", "cpp"), SPEC, MAIN, target_of("sm_90a"))


def test_a_stopped_compiler_starts_no_worker_in_place_of_those_it_lost(tmp_path: Path) -> None:
    stopped = NvidiaCompiler(Settings(cache_dir=str(tmp_path), compile_workers=1), compile_only("sm_90a"))
    stopped.close()
    with pytest.raises(KevolveError, match="was stopped"):
        stopped.compile(cuda_candidate(), SPEC, MAIN, target_of("sm_90a"))


def test_the_steps_of_an_unrolled_loop_are_few_kernels_with_wide_loads(compiler: NvidiaCompiler) -> None:
    """What they differ in is told at run time, and what it is a multiple of is not lost by that."""
    source = """
import torch

def f(x, h, w):
    for row in x:
        h = torch.tanh(torch.cat((row, h), 1) @ w)
    return h
"""
    inputs = InputSpec("x", (12, 64, 256)), InputSpec("h", (64, 256)), InputSpec("w", (512, 256))
    spec = KernelSpec("unrolled", Reference(source, "f"), (Case("main", inputs),))
    candidate = SynthGenerator(spec, {"triton": TritonRenderer()}, schedule_space, compiler.device).default()
    artifact = compiler.compile(candidate, spec, spec.cases[0], target_of("sm_90a"))
    shared = re.search(r'do_not_specialize=\["at"\]\)\ndef (\w+)', candidate.files["kernel.py"])
    assert shared is not None
    found = {name: facts for name, facts in artifact.facts["kernels"].items() if shared[1] in name}
    assert len(artifact.binaries) <= 3  # the first step reads an input, and the last writes the result
    assert [bool(facts["sass"].get("wide_load_global")) for facts in found.values()] == [True]
