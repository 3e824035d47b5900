"""What loading makes of good specifications, and that writing keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.kernelspec import Distribution, KernelSpec, Precision
from kevolve_core.model import Candidate
from kevolve_core.spec import dump_spec, load_seed, load_spec, parse_spec

FULL = """
kevolve: 1
name: lookup
description: for people
reference:
  python: |
    import torch

    class Model(torch.nn.Module):
        def __init__(self, width, scale=1.0):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(width))
            self.scale = scale

        def forward(self, x, table, ids, eps):
            return x * self.weight * self.scale + eps, torch.isin(ids, table)
  init: {scale: 2.0}
inputs:
  - {name: x, shape: [B, H], layouts: [contiguous, transposed, offset], special: false}
  - name: table
    shape: [T]
    dtype: int64
    distribution: {kind: unique_sorted, low: 0, high: 4611686018427387904}
  - {name: ids, shape: [B + 1], dtype: int64, distribution: {kind: choice, source: table, p: 0.9}}
  - {name: eps, value: 1e-6}
cases:
  - {name: big, sizes: {B: 64, H: 32, T: 100}, init: {width: $H}}
  - {name: odd, sizes: {B: 7, H: 5, T: 3}, init: {width: $H}, weight: 0, inputs: {eps: {value: 1e-3}}}
  - {name: other, role: holdout, sizes: {B: 3, H: 8, T: 9}, init: {width: $H}, weight: 0.5}
precision: {policy: relaxed, rtol: 1e-3, atol: 1e-5}
mode: train
targets: [somewhere]
seeds:
  - files: {"kernel.py": "class ModelNew: ...", "kernel.cpp": "// native"}
options: {timeout_s: 20, library_calls: forbid}
"""


@pytest.fixture
def full(tmp_path: Path) -> KernelSpec:
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    return load_spec(path)


def test_sizes_are_resolved_in_shapes_and_constructor_arguments(full: KernelSpec) -> None:
    odd = full.case("odd")
    assert [s.shape for s in odd.inputs] == [(7, 5), (3,), (8,), None]
    assert dict(odd.init) == {"width": 5}


def test_a_case_restates_a_shared_input(full: KernelSpec) -> None:
    assert [full.case(n).inputs[3].value for n in ("big", "odd")] == [1e-6, 1e-3]


def test_other_names_of_parameters_are_understood(full: KernelSpec) -> None:
    assert full.case("big").inputs[2].distribution == Distribution("choice", None, 0.9, "table")


def test_long_ids_keep_every_digit(full: KernelSpec) -> None:
    assert full.case("big").inputs[1].distribution.high == 2**62


def test_everything_else_arrives(full: KernelSpec) -> None:
    got = (full.name, full.mode, full.precision, full.targets, dict(full.options), full.reference.kind)
    relaxed = Precision("relaxed", 1e-3, 1e-5)
    assert got == (
        "lookup",
        "train",
        relaxed,
        ("somewhere",),
        {"timeout_s": 20, "library_calls": "forbid"},
        "module",
    )
    assert [(c.name, c.role, c.weight) for c in full.cases] == [
        ("big", "tune", 1.0),
        ("odd", "tune", 0.0),
        ("other", "holdout", 0.5),
    ]
    assert [(s.entry, s.language) for s in full.seeds] == [("kernel.py", "cpp")]


def test_a_written_specification_reads_back_the_same(full: KernelSpec, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(dump_spec(full))
    again = load_spec(path)
    assert again.fingerprint == full.fingerprint
    assert again.cases == full.cases
    assert again.seeds == full.seeds


def test_the_fingerprint_is_of_the_content_not_the_place(full: KernelSpec, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "moved.yaml"
    path.write_text(FULL)
    assert load_spec(path).fingerprint == full.fingerprint


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_survives_writing(path: Path, tmp_path: Path) -> None:
    spec = load_spec(path)
    again = tmp_path / "again.yaml"
    again.write_text(dump_spec(spec))
    assert load_spec(again).fingerprint == spec.fingerprint
    assert {c.role for c in spec.cases} == {"tune", "holdout"}


KERNELBENCH = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.linear = nn.Linear(n, n)

    def forward(self, x):
        return torch.relu(self.linear(x))

def get_inputs():
    return [torch.rand(3, 8)]

def get_init_inputs():
    return [8]
"""


def test_a_kernelbench_file_is_a_specification(tmp_path: Path) -> None:
    path = tmp_path / "19_ReLU linear.py"
    path.write_text(KERNELBENCH)
    spec = load_spec(path)
    ref = spec.reference
    assert (spec.name, ref.symbol, ref.kind) == ("19_ReLU_linear", "Model", "module")
    assert (ref.init_from, ref.inputs_from) == ("get_init_inputs", "get_inputs")
    assert [(c.name, c.role, c.inputs) for c in spec.cases] == [("default", "tune", ())]


def test_a_kernelbench_specification_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "kb.py"
    path.write_text(KERNELBENCH)
    spec = load_spec(path)
    again = tmp_path / "kb.yaml"
    again.write_text(dump_spec(spec))
    assert load_spec(again).fingerprint == spec.fingerprint


def test_a_yaml_may_lean_on_a_kernelbench_file(tmp_path: Path) -> None:
    (tmp_path / "kb.py").write_text(KERNELBENCH)
    spec = parse_spec({"kevolve": 1, "reference": "kb.py", "precision": "parity"}, tmp_path)
    assert (spec.reference.inputs_from, spec.reference.init_from) == ("get_inputs", "get_init_inputs")


def test_declared_inputs_take_the_place_of_get_inputs(tmp_path: Path) -> None:
    (tmp_path / "kb.py").write_text(KERNELBENCH)
    spec = parse_spec({"kevolve": 1, "reference": "kb.py", "inputs": {"x": [5, 8]}}, tmp_path)
    assert (spec.reference.inputs_from, spec.cases[0].inputs[0].shape) == ("", (5, 8))


def test_a_module_beside_the_specification_is_found(tmp_path: Path) -> None:
    (tmp_path / "ops.py").write_text("def f(x):\n    return x\n\ndef g(x):\n    return x\n")
    spec = parse_spec({"kevolve": 1, "reference": {"module": "ops:g"}, "inputs": {"x": [2]}}, tmp_path)
    assert (spec.reference.symbol, "def g" in spec.reference.source) == ("g", True)


def test_an_installed_module_is_imported_and_its_content_counts() -> None:
    spec = parse_spec(
        {"kevolve": 1, "reference": "torch.nn.modules.normalization:RMSNorm", "inputs": {"x": [2, 4]}}
    )
    assert spec.reference.kind == "module"
    assert "from torch.nn.modules.normalization import RMSNorm" in spec.reference.source
    assert "sha256" in spec.reference.source


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("class ModelNew: pass", "python"),
        ("import triton\nclass ModelNew: pass", "triton"),
        ("def setup():\n    import triton.language as tl\nclass ModelNew: pass", "triton"),
    ],
)
def test_the_language_of_a_kernel_file_is_seen(tmp_path: Path, text: str, language: str) -> None:
    (tmp_path / "k.py").write_text(text)
    assert load_seed(tmp_path / "k.py").language == language


def test_a_kernel_folder_has_all_its_sources(tmp_path: Path) -> None:
    for name in ("kernel.py", "a.cpp", "util/a.hpp", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("class ModelNew: pass" if name.endswith(".py") else "//")
    seed: Candidate = load_seed(tmp_path)
    assert (sorted(seed.files), seed.entry, seed.language) == (
        ["a.cpp", "kernel.py", "util/a.hpp"],
        "kernel.py",
        "cpp",
    )


def test_a_seed_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kernel.py").write_text("def f(x): return x")
    (tmp_path / "mine" / "f.cpp").write_text("// native")
    body = {
        "kevolve": 1,
        "reference": {"python": "def f(x): return x"},
        "inputs": {"x": [2]},
        "seeds": ["mine"],
    }
    (seed,) = parse_spec(body, tmp_path).seeds
    assert (seed.id, seed.language) == (load_seed(tmp_path / "mine").id, "cpp")
