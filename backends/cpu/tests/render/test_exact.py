"""Where the rounding of a term shows: products against what was made of them, and few sums that cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import render_harness as harness
import torch

from kevolve_core.ir import Program
from kevolve_core.synth import synthesise
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.simplify import simplified
from kevolve_cpu.render import CppRenderer
from kevolve_cpu.render.exact import Products


def program_of(function: Callable[..., Any], *inputs: torch.Tensor) -> Program:
    return synthesise(simplified(capture(function, inputs, keep=TABLE)), "case").program


def computed(function: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    """What the C++ kernel of ``function`` gives, at the default schedule."""
    return harness.load(CppRenderer().render(harness.spec(), [program_of(function, *inputs)], {})).f(*inputs)


def below_the_largest(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    product = x * y
    return torch.cat([product, y], 1) - product.amax(1, keepdim=True)


def test_a_product_less_itself_is_zero_where_it_is_computed_twice() -> None:
    x, y = torch.randn(2, 33, 21) * 1e4
    assert torch.equal(computed(below_the_largest, x, y), below_the_largest(x, y))


def test_only_products_of_more_than_one_statement_are_kept_from_fusing() -> None:
    x, y = torch.randn(2, 33, 21)

    def text(function: Callable[..., Any]) -> str:
        return CppRenderer().render(harness.spec(), [program_of(function, x, y)], {}).files["kernel.cpp"]

    assert ("rounded(" in text(below_the_largest), "rounded(" in text(lambda x, y: x * y + y)) == (
        True,
        False,
    )


def normalised_twice(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    twice = torch.cat([x, x], 0)
    unit = twice / (twice.norm(dim=1, keepdim=True) + 1.0)
    less = -(unit * 0.5 + 1.0)
    return less + unit, less


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [*range(1, 10), 33, 130])
def test_a_product_kept_from_fusing_is_right_in_every_lane(n: int, dtype: torch.dtype) -> None:
    x = torch.randn(2, n, 1, dtype=dtype)
    torch.testing.assert_close(computed(normalised_twice, x), normalised_twice(x), rtol=1e-6, atol=1e-6)


def test_the_products_of_a_long_chain_are_numbered_without_repeating_work() -> None:
    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(60):
            x = x * x + x
        return x

    Products.of(program_of(chain, torch.randn(8, 16)).nests())  # 2^60 steps were it a tree


@pytest.mark.parametrize("dim", [0, 1, (0, 1)])
def test_few_sums_have_their_terms_in_float64(dim: Any) -> None:
    x, y = torch.randn(2, 8, 17).mul_(1000)
    exact = (x.double() - 0.3 * y.double() * x.double()).sum(dim)
    got = computed(lambda x, y: (x - 0.3 * y * x).sum(dim), x, y)
    assert float(((got - exact) / exact).abs().max()) <= 2**-23 + 2e-8  # 0.3 is rounded in both


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floors_of_quotients_are_pytorchs(dtype: torch.dtype) -> None:
    some = torch.tensor(
        [-1.0, 1.0, -0.0, 0.0, 3.5, -7.25, float("inf"), float("-inf"), float("nan")], dtype=dtype
    )
    a, b = (each.reshape(-1).contiguous() for each in torch.meshgrid(some, some, indexing="ij"))
    expected = torch.floor_divide(a, b)
    got = computed(torch.floor_divide, a, b)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(got[expected == 0]), torch.signbit(expected[expected == 0]))
