"""Generated matrix products: any shape, stride and batch, with and without an epilogue."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import render_harness as harness
import torch
from torch import Tensor
from torch.nn import functional

from kevolve_core.ir import LibraryCall, Program
from kevolve_core.model import Candidate
from kevolve_core.synth.capture import capture
from kevolve_core.synth.program import synthesise
from kevolve_cpu.spaces import schedule_space

GENERATED = {"product": "generated"}


def lowered(fn: Callable[..., Tensor], *inputs: Tensor) -> Program:
    return synthesise(capture(fn, inputs)).program


def generated(fn: Callable[..., Tensor], *inputs: Tensor, **point: object) -> Candidate:
    return harness.render(lowered(fn, *inputs), {**GENERATED, **point})


def agrees(fn: Callable[..., Tensor], *inputs: Tensor, **point: object) -> None:
    """No library call, and no more than twice PyTorch's error, or a few places where that is none."""
    candidate = generated(fn, *inputs, **point)
    assert candidate.libraries == ()
    ours = harness.load(candidate).f(*inputs)
    exact, plain = fn(*(x.double() for x in inputs)), fn(*inputs)
    eps = torch.finfo(plain.dtype).eps
    allowed = max(2 * (plain - exact).abs().max().item(), 4 * eps * exact.square().mean().sqrt().item())
    assert ours.dtype == plain.dtype
    assert (ours - exact).abs().max().item() <= allowed


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape))).to(
        dtype
    )


@pytest.mark.parametrize(
    "shape",
    [(2, 2, 1), (7, 1003, 103), (12, 32, 384), (13, 33, 385), (100, 3, 900), (401, 65, 64)],
)
def test_shapes(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    agrees(torch.mm, draw(m, k), draw(k, n), product_task=48)


@pytest.mark.parametrize(
    "point",
    [
        {"product_lanes": 4, "product_rows": 4},
        {"product_lanes": 8, "product_rows": 6, "product_depth": 192},
        {"product_rows": 8, "product_vectors": 3, "product_depth": 96, "product_task": 96},
    ],
)
def test_blocks(point: dict[str, object]) -> None:
    agrees(torch.mm, draw(131, 500), draw(500, 111), **point)


def test_transposed_operands() -> None:
    agrees(lambda a, b: a.t() @ b.t(), draw(77, 131), draw(45, 77))


def test_operands_that_are_views() -> None:
    agrees(lambda a, b: a[3:, ::2] @ b[1:, 5:], draw(50, 80), draw(41, 37))


def test_one_operand_twice() -> None:
    agrees(lambda a: a @ a.t(), draw(70, 33))


def test_batches() -> None:
    agrees(lambda a, b: a @ b.transpose(1, 2), draw(5, 19, 40), draw(5, 67, 40))


def test_a_batch_that_is_repeated() -> None:
    agrees(lambda a, b: torch.bmm(a, b.expand(5, 40, 67)), draw(5, 19, 40), draw(1, 40, 67))


@pytest.mark.parametrize("epilogue", [torch.relu, lambda y: torch.softmax(y, -1), lambda y: y.sum(1)])
def test_one_batch(epilogue: Callable[[Tensor], Tensor]) -> None:
    agrees(lambda a, b: epilogue(torch.bmm(a, b)), draw(1, 19, 40), draw(1, 40, 67))


def test_float64() -> None:
    agrees(torch.mm, draw(50, 70, dtype=torch.float64), draw(70, 61, dtype=torch.float64))


def test_a_pointwise_epilogue_runs_on_the_rows_of_a_task() -> None:
    def fn(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.gelu(functional.linear(x, w, b))

    inputs = draw(131, 100), draw(77, 100), draw(77)
    agrees(fn, *inputs, product_task=48)
    entry = generated(fn, *inputs).files["kernel.py"]
    assert entry.count("torch.empty(") == 1  # the result; the product is nowhere in memory


def test_an_epilogue_that_reduces_over_rows() -> None:
    agrees(lambda a, b: torch.softmax(a @ b, -1), draw(131, 30), draw(30, 77), product_task=48)


def test_an_epilogue_over_batches() -> None:
    agrees(lambda a, b: torch.softmax(a @ b * 0.2, -1) + 1, draw(6, 31, 30), draw(6, 30, 77))


def test_an_epilogue_across_rows_follows_the_product() -> None:
    agrees(lambda a, b: (a @ b).sum(0), draw(131, 30), draw(30, 77))


def test_a_product_that_is_a_result_too() -> None:
    def fn(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a @ b, torch.relu(a @ b)])

    agrees(fn, draw(31, 30), draw(30, 33))


def test_products_one_after_another() -> None:
    agrees(lambda a, b, c: torch.relu(a @ b) @ c, draw(131, 30), draw(30, 77), draw(77, 20))


def test_infinities_stay_in_their_rows_and_columns() -> None:
    a, b = draw(14, 20), draw(20, 40)
    a[3, 2], b[5, 7] = torch.inf, torch.nan
    ours = harness.load(generated(torch.mm, a, b)).f(a, b)
    assert torch.equal(ours.isfinite(), torch.mm(a, b).isfinite())


@pytest.mark.parametrize("shape", [(1, 30), (30, 1)])
def test_a_product_with_a_vector_is_the_librarys(shape: tuple[int, int]) -> None:
    a, b = draw(shape[0], 20), draw(20, shape[1])
    assert generated(torch.mm, a, b).libraries == ("aten::mm",)


def test_half_precision_is_the_librarys() -> None:
    a, b = draw(14, 20, dtype=torch.bfloat16), draw(20, 40, dtype=torch.bfloat16)
    assert generated(torch.mm, a, b).libraries == ("aten::mm",)


def test_the_library_and_generated_code_are_drawn_alike() -> None:
    step = next(s for s in lowered(torch.mm, draw(14, 20), draw(20, 40)).steps if isinstance(s, LibraryCall))
    space = schedule_space(step, None)
    rng = random.Random(0)
    drawn = Counter(space.sample(rng)["product"] for _ in range(200))
    assert space.default()["product"] == "library"
    assert 0.3 < drawn["library"] / 200 < 0.7


def test_sums_that_do_not_fit_the_registers_are_illegal() -> None:
    space = schedule_space(lowered(torch.mm, draw(14, 20), draw(20, 40)).steps[0], None)
    violated = space.violated({**space.default(), "product_rows": 12, "product_vectors": 3})
    assert violated is not None
    assert violated.text == "the sums of a block fit the registers"


def test_a_narrow_host_has_narrow_blocks() -> None:
    from kevolve_core.model import Device, Target

    host = Device("cpu:0", "cpu", "narrow", Target("cpu", "x86_64", {}), facts={"vector_bytes": 32})
    step = lowered(torch.mm, draw(14, 20), draw(20, 40)).steps[0]
    default = schedule_space(step, host).default()
    assert (default["product_lanes"], default["product_rows"], default["product_vectors"]) == (8, 6, 2)
