"""What users of a rendered candidate meet: the entry, its guard, modules, several cases, library calls."""

from __future__ import annotations

import os
import random
from pathlib import Path

import ir_examples as ex
import pytest
import render_harness as harness
import torch
from attrs import evolve

from kevolve_core.interfaces import Renderer
from kevolve_core.ir import Buffer, Index, LibraryCall, Load, Op, Operand, OutputRef, Program, Store
from kevolve_cpu.render import CppRenderer
from kevolve_cpu.spaces import schedule_space

GOLDEN = Path(__file__).parent / "golden"


def two_cases() -> list[Program]:
    return [evolve(ex.rmsnorm(4, 32), case="small"), evolve(ex.rmsnorm(6, 50), case="odd-one")]


def module_program(features: int, case: str = "main") -> Program:
    p = ex.rmsnorm(5, features)
    w = Buffer("w", (features,), "float32", "param", source="norm.weight")
    unused = Buffer("steps", (), "int64", "param", source="norm.num_batches_tracked")
    return evolve(p, case=case, buffers={**p.buffers, "w": w, "steps": unused})


MODULE = """
import torch
class Norm(torch.nn.Module):
    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(features))
        self.register_buffer("num_batches_tracked", torch.tensor(3))
        self.eps = eps
    def forward(self, x: torch.Tensor):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
class Model(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.norm = Norm(features)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)
"""


def test_renderer_conforms_to_the_protocol() -> None:
    renderer: Renderer = CppRenderer()
    assert renderer.language == "cpp"


def test_rendering_is_deterministic() -> None:
    first, second = (CppRenderer().render(harness.spec(), two_cases(), {}) for _ in range(2))
    assert first.id == second.id


def test_each_case_has_its_own_file_and_dispatch_is_by_shape() -> None:
    candidate = CppRenderer().render(harness.spec(), two_cases(), {})
    assert sorted(candidate.files) == ["kernel.py", "kernel_odd_one.cpp", "kernel_small.cpp"]
    f = harness.load(candidate).f
    for shape in ((4, 32), (6, 50)):
        x, w = torch.randn(shape), torch.randn(shape[1])
        expected = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w
        torch.testing.assert_close(f(x, w), expected)


def test_other_shapes_and_dtypes_are_refused() -> None:
    f = harness.load(CppRenderer().render(harness.spec(), two_cases(), {})).f
    with pytest.raises(ValueError, match=r"other shapes or dtypes than \(3, 3\) torch.float32"):
        f(torch.randn(3, 3), torch.randn(3))
    with pytest.raises(ValueError, match="float64"):
        f(torch.randn(4, 32).double(), torch.randn(32))


def test_function_has_the_signature_of_the_reference() -> None:
    source = "def rms(x, weight, eps: float = 1e-6):\n    return x"
    candidate = CppRenderer().render(harness.spec(source, "rms"), [ex.rmsnorm(4, 32)], {})
    assert "def rms(x, weight, eps=1e-06):" in candidate.files["kernel.py"]
    assert candidate.symbol == "rms"


def test_module_has_the_state_of_the_reference() -> None:
    candidate = CppRenderer().render(harness.spec(MODULE, "Model", "module"), [module_program(48)], {})
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    reference = namespace["Model"](48)  # type: ignore[operator]
    model = harness.load(candidate).ModelNew(48)
    assert list(reference.state_dict()) == list(model.state_dict())
    model.load_state_dict(reference.state_dict())
    x = torch.randn(5, 48)
    torch.testing.assert_close(model(x), reference(x).detach())
    assert candidate.symbol == ""


def test_module_takes_the_weights_of_every_case() -> None:
    programs = [module_program(48, "a"), module_program(20, "b")]
    candidate = CppRenderer().render(harness.spec(MODULE, "Model", "module"), programs, {})
    namespace: dict[str, object] = {}
    exec(MODULE, namespace)
    for features in (48, 20):
        reference = namespace["Model"](features)  # type: ignore[operator]
        model = harness.load(candidate).ModelNew(features)
        model.load_state_dict(reference.state_dict())
        x = torch.randn(5, features)
        torch.testing.assert_close(model(x), reference(x).detach())


@pytest.mark.parametrize("tile", [0, 64])
def test_library_call_with_tiled_epilogue(tile: int) -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(150, 40), torch.randn(70, 40), torch.randn(70)
    candidate = CppRenderer().render(
        harness.spec(), [ex.linear_gelu(150, 40, 70)], {"linear": {"tile_rows": tile}}
    )
    assert candidate.libraries == ("aten::mm",)
    assert ("for first in range" in candidate.files["kernel.py"]) == bool(tile)
    expected = torch.nn.functional.gelu(torch.nn.functional.linear(x, w, b))
    torch.testing.assert_close(harness.load(candidate).f(x, w, b), expected, rtol=1e-5, atol=1e-5)


def test_library_call_with_several_results() -> None:
    x = torch.randn(6, 20)
    call = LibraryCall(
        "top",
        "aten::topk",
        (Operand("x", (6, 20), (20, 1)),),
        "values",
        {"k": 3, "dim": 1},
        outputs=("values", "at"),
    )
    p = harness.program(
        call, buffers=[ex.tensor("x", 6, 20), ex.out("values", 6, 3), ex.out("at", 6, 3, dtype="int64")]
    )
    values, at = harness.run(p, [x])
    assert torch.equal(values, x.topk(3, 1).values)
    assert torch.equal(at, x.topk(3, 1).indices)


def test_result_keeps_the_structure_and_views_of_the_reference() -> None:
    p = ex.rmsnorm(4, 6)
    refs = (OutputRef("y", (6, 4), (1, 6)), OutputRef("x", (4, 6), (6, 1)))
    p = evolve(p, outputs=refs, structure={"t": 0, "rest": [1]})
    x, w = torch.randn(4, 6), torch.ones(6)
    got = harness.run(p, [x, w])
    assert list(got) == ["t", "rest"]
    assert got["t"].shape == (6, 4)
    assert torch.equal(got["rest"][0], x)


def test_supports_says_why_not() -> None:
    renderer = CppRenderer()
    assert renderer.supports(ex.rmsnorm(4, 6).steps[0]) == ""
    unknown = LibraryCall("f", "aten::no_such_operator", (), "y")
    assert "no_such_operator" in renderer.supports(unknown)


@pytest.mark.parametrize("name", ["rmsnorm", "softmax", "map_id"])
def test_generated_source_is_the_golden_one(name: str) -> None:
    programs = {
        "rmsnorm": ex.rmsnorm(8192, 4096),
        "softmax": ex.softmax(100, 1000),
        "map_id": ex.map_id(100_000, 5000),
    }
    files = CppRenderer().render(harness.spec(name=name), [programs[name]], {}).files
    text = "\n".join(f"==== {path}\n{files[path]}" for path in sorted(files))
    path = GOLDEN / f"{name}.txt"
    if "KEVOLVE_UPDATE_GOLDEN" in os.environ:
        path.write_text(text)
    assert path.read_text() == text


def test_default_points_are_legal_and_samples_too() -> None:
    for p in (
        ex.rmsnorm(64, 256),
        ex.softmax_dim1(2, 8, 64),
        ex.linear_gelu(64, 32, 48),
        ex.map_id(1000, 100),
    ):
        for step in p.steps:
            space = schedule_space(step, None)
            rng = random.Random(0)
            assert space.is_legal(space.default())
            assert all(space.is_legal(space.sample(rng)) for _ in range(20))


def test_choices_made_for_another_shape_are_repaired() -> None:
    choices = {"rmsnorm": {"lanes": 8, "vector_axis": "gone", "unroll": 3, "unknown": 1}}
    f = harness.load(CppRenderer().render(harness.spec(), [ex.rmsnorm(4, 32)], choices)).f
    x = torch.randn(4, 32)
    expected = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(f(x, torch.ones(32)), expected)


def _convolved(batch: int) -> Program:
    """A convolution on channels-last memory between a nest that converts and one that reads its result."""
    n, c, h, w = (Index(a) for a in ("n", "c", "h", "w"))
    axes = {"n": batch, "h": 5, "w": 4, "c": 3}
    read = Operand("y", (batch, 3, 5, 4), (60, 1, 12, 3))
    call = LibraryCall(
        "conv", "aten::convolution", (read, Operand("k", (2, 3, 1, 1), (3, 1, 1, 1))), "z",
        {"bias": None, "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "transposed": False,
         "output_padding": [0, 0], "groups": 1},
        harness.nest(
            "after", {"n": batch, "h": 5, "w": 4, "c": 2}, 3,
            Store("o", (n, c, h, w), Op("neg", (Load("z", (n, h, w, c), "float32"),), "float32")),
        ),
        order=(0, 2, 3, 1),
    )  # fmt: skip
    return harness.program(
        harness.nest("before", axes, 3, Store("y", (n, h, w, c), Load("x", (n, c, h, w), "float32"))), call,
        buffers=[
            Buffer("x", (batch, 3, 5, 4), "float32", "input", source="0"),
            Buffer("k", (2, 3, 1, 1), "float32", "input", source="1"),
            Buffer("y", (batch, 5, 4, 3), "float32", "temp"),
            Buffer("z", (batch, 5, 4, 2), "float32", "temp"),
            Buffer("o", (batch, 2, 5, 4), "float32", "output"),
        ],
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tile_rows", [0, 1, 2])
def test_a_call_writes_its_result_in_another_order_of_memory(batch: int, tile_rows: int) -> None:
    x, k = torch.randn(batch, 3, 5, 4), torch.randn(2, 3, 1, 1)
    got = harness.run(_convolved(batch), [x, k], {"tile_rows": tile_rows})
    torch.testing.assert_close(got, -torch.nn.functional.conv2d(x, k))
    assert got.is_contiguous()
