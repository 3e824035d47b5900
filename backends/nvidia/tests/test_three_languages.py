"""The hand-written kernels of `benchmarks/three_languages`: that they compile, and what they do on a CPU."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from benchmarks.three_languages import LANGUAGES, PROBLEMS, candidate_of, spec_of
from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.isolate.entry import EntryModules
from kevolve_core.model import Artifact
from kevolve_core.native import binding
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import target_of

from .conftest import installed

ROOT = Path(__file__).resolve().parents[3]
BOTH = [pytest.param(n, marks=installed if n == "cute" else ()) for n in LANGUAGES]
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def compiled(compiler: NvidiaCompiler, problem: str, language: str, case: str) -> Artifact:
    spec = spec_of(problem)
    return compiler.compile(candidate_of(problem, language), spec, spec.case(case), target_of("sm_90a"))


def on_cpu(*arguments: str) -> dict[str, str]:
    """Problem -> why its kernel is wrong, or ""."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.three_languages.on_cpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["problem"]: row["wrong"] for row in rows}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_rules_let_every_kernel_through(language: str) -> None:
    broken = {p: check_candidate(candidate_of(p, language)) for p in PROBLEMS}
    assert broken == dict.fromkeys(PROBLEMS, ())


@pytest.mark.parametrize("language", BOTH)
@pytest.mark.parametrize("problem", ["softmax", "matmul_bias_relu"])
def test_a_reduction_and_a_product_compile_in_each_language(
    compiler: NvidiaCompiler, problem: str, language: str
) -> None:
    kernels = compiled(compiler, problem, language, "ragged").facts["kernels"]
    assert [facts["spill_bytes"] for facts in kernels.values()] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["timed", "ragged", "holdout"])
@pytest.mark.parametrize("language", BOTH)
def test_every_kernel_compiles_for_every_case(compiler: NvidiaCompiler, language: str, case: str) -> None:
    found = {p: len(compiled(compiler, p, language, case).facts["kernels"]) for p in PROBLEMS}
    assert found == dict.fromkeys(PROBLEMS, 1)


@pytest.mark.slow
@pytest.mark.parametrize("language", [pytest.param("cuda", marks=needs_gxx), "triton", "cute"])
def test_every_kernel_is_right_on_a_cpu(language: str) -> None:
    shown = [p for p in PROBLEMS if language != "cute" or not p.startswith("matmul")]
    assert on_cpu(language, "--cases", "ragged") == dict.fromkeys(shown, "")


@pytest.mark.parametrize("problem", ["gelu", "rotary"])
def test_a_triton_kernel_is_right_in_the_interpreter(problem: str) -> None:
    assert on_cpu("triton", "--cases", "ragged", "--only", problem) == {problem: ""}


@needs_gxx
@pytest.mark.parametrize(("old", "new"), [("", ""), ("i < size", "i < size - 1"), ("v.z", "v.y")])
def test_a_wrong_index_of_a_cuda_kernel_is_seen_on_a_cpu(tmp_path: Path, old: str, new: str) -> None:
    from benchmarks.three_languages.on_cpu import emulated, wrong

    spec = spec_of("gelu")
    candidate = candidate_of("gelu", "cuda")
    text = candidate.files["kernel.cu"]
    assert old in text
    candidate = attrs.evolve(
        candidate, files={**candidate.files, "kernel.cu": text.replace(old, new) if old else text}
    )
    (tmp_path / "kernel.py").write_text(candidate.files["kernel.py"])
    modules = EntryModules()
    with binding(emulated(candidate, tmp_path)):
        module = modules.load(tmp_path, "kernel.py")
    said = wrong(spec, spec.case("ragged"), module.gelu)
    modules.reset()
    assert bool(said) == bool(old)


@pytest.mark.parametrize(
    ("old", "new"), [("", ""), ("i // vectors % tokens", "i // vectors"), ("- b * s", "+ b * s")]
)
def test_a_wrong_index_of_a_cute_kernel_is_seen_on_a_cpu(tmp_path: Path, old: str, new: str) -> None:
    from benchmarks.three_languages.cute_on_cpu import standing_in
    from benchmarks.three_languages.on_cpu import wrong

    spec = spec_of("rotary")
    text = candidate_of("rotary", "cute").files["cute_kernel.py"]
    assert old in text
    (tmp_path / "kernel.py").write_text(text.replace(old, new) if old else text)
    modules = EntryModules()
    with standing_in():
        module = modules.load(tmp_path, "kernel.py")
        try:
            said = wrong(spec, spec.case("ragged"), module.rotary)
        except AssertionError as error:  # it reads outside of a tensor
            said = str(error)
    modules.reset()
    assert bool(said) == bool(old)
