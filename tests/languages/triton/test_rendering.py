"""What generated Triton looks like, and what the renderer refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from kevolve_core.evaluate.rules import check_candidate
from kevolve_core.ir import Axis, Buffer, Const, Index, Load, LoopNest, Op, OutputRef, Program, Store
from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.languages.triton import TritonRenderer
from kevolve_core.model import Candidate
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified

GOLDEN = Path(__file__).parent / "golden"
GENERATED = {"implementation": "generated"}


def program_of(function: Callable[..., Any], *shapes: tuple[int, ...]) -> Program:
    inputs = [torch.zeros(s) for s in shapes]
    graph = simplified(capture(function, inputs, keep=TABLE))
    return synthesise(graph, "main", Partition(attention=True)).program


def rendered(program: Program, point: Mapping[str, Any] | None = None, kind: str = "function") -> Candidate:
    spec = KernelSpec("example", Reference("def f(*inputs): ...", "f", kind), (Case("main"),))
    return TritonRenderer().render(spec, [program], {s.name: point or {} for s in program.steps})


def unrolled(x: torch.Tensor, h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """A recurrence as a loop of Python's."""
    for row in x:
        h = torch.tanh(torch.cat((row, h), 1) @ w)
    return h


EXAMPLES: Mapping[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...], Mapping[str, Any]]] = {
    "softmax": (lambda x: F.softmax(x, -1), ((1000, 1024),), {}),
    "softmax_looped": (lambda x: F.softmax(x, -1), ((16, 100000),), {}),
    "group_norm": (lambda x, w: F.silu(F.group_norm(x, 8, w)), ((4, 32, 100), (32,)), {}),
    "transposed_sum": (lambda x, y: x + y.t(), ((300, 500), (500, 300)), {}),
    "cumsum": (lambda x: torch.cumsum(x, 1), ((64, 50000),), {}),
    "linear_gelu": (lambda x, w, b: F.gelu(x @ w.t() + b), ((512, 384), (256, 384), (256,)), GENERATED),
    "convolution": (
        lambda x, w, b: F.relu(F.conv2d(x, w, b, padding=1)),
        ((8, 16, 32, 32), (64, 16, 3, 3), (64,)),
        GENERATED,
    ),
    "depthwise_convolution": (
        lambda x, w, b: F.relu6(F.conv2d(x, w, b, padding=1, groups=32)),
        ((8, 32, 57, 57), (32, 1, 3, 3), (32,)),
        {},
    ),
    "transposed_convolution": (
        lambda x, w, b: F.relu(F.conv_transpose2d(x, w, b, stride=2, padding=1)),
        ((8, 16, 32, 32), (16, 64, 3, 3), (64,)),
        GENERATED,
    ),
    "unrolled": (
        lambda x, h, w: unrolled(x, h, w),
        ((12, 8, 48), (8, 32), (80, 32)),
        {},
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        ((2, 8, 1000, 96), (2, 2, 1000, 96), (2, 2, 1000, 96)),
        {},
    ),
    "descriptors": (
        lambda x, w, b: F.gelu(x @ w.t() + b),
        ((500, 384), (256, 384), (256,)),
        {**GENERATED, "tile_loads": "descriptors"},
    ),
    "descriptors_of_a_batch": (
        lambda x, y: (x.mT @ y).relu(),
        ((3, 64, 100), (3, 64, 81)),
        {**GENERATED, "tile_loads": "descriptors", "tile_programs": 8},
    ),
    "split_depth": (lambda x, y: x @ y, ((64, 8192), (8192, 64)), {**GENERATED, "tile_split": 8}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_generated_source_is_what_it_was(name: str) -> None:
    """``KEVOLVE_GOLDEN=1`` in the environment writes the files anew."""
    import os

    function, shapes, point = EXAMPLES[name]
    text = rendered(program_of(function, *shapes), point).files["kernel.py"]
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("KEVOLVE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", EXAMPLES)
def test_generated_source_keeps_the_rules(name: str) -> None:
    function, shapes, point = EXAMPLES[name]
    assert check_candidate(rendered(program_of(function, *shapes), point)) == ()


def test_a_temporary_tensor_takes_memory_that_nobody_reads_any_more() -> None:
    def chain(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        for _ in range(5):
            x = F.relu(x @ a)
        return x

    text = rendered(program_of(chain, (8, 8), (8, 8))).files["kernel.py"]
    assert (text.count(" = torch.empty("), text.count("nobody reads any more")) == (2, 3)


def test_what_is_read_later_keeps_its_memory() -> None:
    def chain(x: torch.Tensor) -> torch.Tensor:
        first = y = F.softmax(x, -1)
        for _ in range(3):
            y = F.softmax(y.t(), -1)
        return y + first.cumsum(-1)

    text = rendered(program_of(chain, (8, 8))).files["kernel.py"]
    body = text[text.index("def _run_main") :]
    launches = [line for line in body.splitlines() if "_launch(ready, " in line]
    first = launches[0].split(", ")[5].strip()
    last = max(k for k, line in enumerate(launches) if f" {first}," in line)
    taken = body.index(f"= {first}  #") if f"= {first}  #" in body else len(body)
    assert taken > body.index(launches[last])


def test_rendering_is_deterministic() -> None:
    program = program_of(lambda x: F.softmax(x, -1), (5, 70))
    assert rendered(program).id == rendered(program).id


def test_a_generated_product_declares_no_library_call() -> None:
    program = program_of(lambda x, y: (x @ y).relu(), (64, 64), (64, 64))
    assert rendered(program).libraries == ("aten::mm",)
    assert rendered(program, GENERATED).libraries == ()


@pytest.mark.parametrize(
    ("function", "shapes", "dtype", "loads"),
    [
        pytest.param(torch.mm, ((64, 64), (64, 64)), torch.float32, 2, id="plain matrices"),
        pytest.param(torch.mm, ((64, 62), (62, 64)), torch.float32, 1, id="rows of 248 bytes"),
        pytest.param(torch.mm, ((64, 68), (68, 64)), torch.float16, 1, id="rows of 136 bytes"),
        pytest.param(lambda x, y: x[1:, 3:67] @ y, ((64, 68), (64, 64)), torch.float32, 1, id="offset"),
        pytest.param(lambda x, y: x[:, ::2] @ y, ((64, 128), (64, 64)), torch.float32, 1, id="a step of two"),
        pytest.param(torch.bmm, ((3, 5, 20), (3, 20, 8)), torch.float32, 2, id="a batch"),
        pytest.param(
            lambda x, w: F.conv2d(x, w), ((2, 64, 8, 8), (64, 64, 1, 1)), torch.float32, 0, id="convolution"
        ),
    ],
)  # fmt: skip
def test_descriptors_load_what_hardware_can_address(
    function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, loads: int
) -> None:
    inputs = [torch.zeros(s, dtype=dtype) for s in shapes]
    program = synthesise(simplified(capture(function, inputs, keep=TABLE)), "main").program
    text = rendered(program, {**GENERATED, "tile_loads": "descriptors"}).files["kernel.py"]
    assert (text.count("_tiles.load(["), text.count(", _described(")) == (loads, loads)
    assert ("TensorDescriptor" in text) == bool(loads)


def test_coordinates_of_descriptors_have_32_bits_where_addresses_have_64() -> None:
    with FakeTensorMode():
        program = program_of(torch.bmm, (4, 65536, 16384), (4, 16384, 64))
    point = {**GENERATED, "tile_loads": "descriptors", "tile_split": 16}
    text = rendered(program, point).files["kernel.py"]
    assert "_tiles.load([batch.to(tl.int32), row_start, start])" in text
    assert "for start in range(part.to(tl.int32) * 1024, stop, DEPTH):" in text


def test_attention_is_one_kernel_and_no_library_call() -> None:
    program = program_of(F.scaled_dot_product_attention, *[(2, 4, 300, 64)] * 3)
    candidate = rendered(program)
    assert candidate.libraries == ()
    assert candidate.files["kernel.py"].count("@triton.jit") == 1
    assert candidate.files["kernel.py"].count("torch.empty(") == 1


def test_scores_that_no_memory_could_hold_need_no_wide_index() -> None:
    with FakeTensorMode():
        program = program_of(F.scaled_dot_product_attention, *[(2, 16, 1 << 14, 64)] * 3)
    assert "int64" not in rendered(program).files["kernel.py"]


def test_cases_have_kernels_of_their_own() -> None:
    programs = []
    for case, n in (("small", 8), ("large", 4096)):
        p = synthesise(simplified(capture(torch.exp, [torch.zeros(n)], keep=TABLE)), case).program
        programs.append(p)
    spec = KernelSpec("two", Reference("", "f"), (Case("small"), Case("large")))
    text = TritonRenderer().render(spec, programs, {}).files["kernel.py"]
    assert "def k_exp_small_kernel(" in text
    assert "def k_exp_large_kernel(" in text
    assert text.count("def _exp(") == 1


def test_a_tensor_beyond_two_billion_elements_is_indexed_with_64_bits() -> None:
    n = 1 << 32
    index = (Index("i0"),)
    body = (Store("y", index, Op("neg", (Load("x", index, "float16"),), "float16")),)
    nest = LoopNest("negate", (Axis("i0", n),), 1, body)
    buffers = {
        "x": Buffer("x", (n,), "float16", "input", source="0"),
        "y": Buffer("y", (n,), "float16", "output"),
    }
    program = Program("main", buffers, (nest,), (OutputRef("y", (n,), (1,)),))
    assert "tl.program_id(0).to(tl.int64) * COLS" in rendered(program).files["kernel.py"]


@pytest.mark.parametrize(
    ("function", "shapes", "point", "indices"),
    [
        pytest.param(
            lambda x, y: x @ y, ((65536, 1024), (1024, 8192)), {**GENERATED, "tile_split": 16},
            ("part", "row", "col"), id="parts of a split depth",
        ),
        pytest.param(lambda x: x.sum(0), ((1 << 17, 1 << 15),), {}, ("row", "col"), id="long columns"),
        pytest.param(
            F.scaled_dot_product_attention, ((64, 32, 1 << 14, 64),) * 3, {},
            ("batch", "row", "col", "col_down", "depth", "depth_down", "width"), id="attention",
        ),
        pytest.param(lambda x: x.cumsum(0), ((1 << 17, 1 << 15),), {}, ("row", "col"), id="scan"),
        pytest.param(
            lambda x: F.softmax(x, 1), ((64, 1024, 1 << 16),), {"rows": 1, "cols": 1024}, ("row", "col"),
            id="a tile of columns",
        ),
    ],
)  # fmt: skip
def test_every_index_into_a_tensor_beyond_two_billion_elements_has_64_bits(
    function: Callable[..., Any],
    shapes: tuple[tuple[int, ...], ...],
    point: Mapping[str, Any],
    indices: tuple[str, ...],
) -> None:
    with FakeTensorMode():
        program = program_of(function, *shapes)
    text = rendered(program, point).files["kernel.py"]
    made = [line.strip() for line in text.splitlines() if line.strip().split(" = ")[0] in indices]
    assert made
    assert [line for line in made if "tl.int64" not in line] == []


def test_an_unknown_type_is_refused_by_name() -> None:
    body = (Store("y", (Index("i0"),), Const(0, "complex64")),)
    nest = LoopNest("zeros", (Axis("i0", 4),), 1, body)
    assert TritonRenderer().supports(nest) == "Triton renderer has no dtype complex64"


@pytest.mark.parametrize("point", [{}, GENERATED])
def test_steps_that_are_alike_have_one_kernel(point: Mapping[str, Any]) -> None:
    texts = [rendered(program_of(unrolled, (n, 8, 48), (8, 32), (80, 32)), point) for n in (12, 24)]
    few, many = (text.files["kernel.py"].count("@triton.jit(do_not_specialize") for text in texts)
    assert few == many == 1
    assert "x0 + at * 384" in texts[0].files["kernel.py"]


def test_steps_that_are_alike_at_other_points_have_kernels_of_their_own() -> None:
    program = program_of(unrolled, (12, 8, 48), (8, 32), (80, 32))
    spec = KernelSpec("example", Reference("def f(*inputs): ...", "f", "function"), (Case("main"),))
    names = [s.name for s in program.steps if isinstance(s, LoopNest)][4:6]
    texts = [
        TritonRenderer().render(spec, [program], {names[0]: {"rows": rows}, names[1]: {"rows": 2}})
        for rows in (1, 2)
    ]
    counts = [text.files["kernel.py"].count("@triton.jit") for text in texts]
    assert counts[0] == counts[1] + 1


def test_few_sums_are_kept_in_float64_with_what_they_add_and_multiply() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x * y - y).sum()

    text = rendered(program_of(f, (7, 33), (7, 33))).files["kernel.py"]
    assert "x0_value.to(tl.float64) * x1_value.to(tl.float64)" in text
