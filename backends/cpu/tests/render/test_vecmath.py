"""Vector functions against float64, over all float32 bit patterns at a stride."""

from __future__ import annotations

import ir_examples as ex
import numpy as np
import pytest
import render_harness as harness
import torch

from kevolve_core.ir import Op, Store

#: operator -> largest error in units in the last place, as stated beside each helper
BOUNDS = {
    "exp": 1.1, "expm1": 1.7, "log": 1.1, "log2": 1.6, "log10": 2.1, "log1p": 1.7, "erf": 1.4, "tanh": 1.6,
    "sqrt": 0.51,
}  # fmt: skip


def patterns(stride: int) -> torch.Tensor:
    """Float32 values of every ``stride``-th bit pattern: both signs, denormals, infinities and NaN too."""
    bits = np.arange(0, 2**32, stride, dtype=np.uint64).astype(np.uint32)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0, -1.0])
    return torch.cat([torch.from_numpy(bits.view(np.float32).copy()), special])


def computed(name: str, x: torch.Tensor, lanes: int) -> torch.Tensor:
    n = x.numel()
    y = Op(name, (ex.load("x", ex.ax("i")),), "float32")
    p = harness.program(
        harness.nest(name, {"i": n}, 1, Store("y", (ex.ax("i"),), y)),
        buffers=[ex.tensor("x", n), ex.out("y", n)],
    )
    result: torch.Tensor = harness.run(p, [x], {"lanes": lanes})
    return result


@pytest.mark.parametrize("lanes", [16, 8])
@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_error_is_within_the_stated_bound(name: str, lanes: int) -> None:
    x = patterns(9973)
    got, exact = computed(name, x, lanes), getattr(torch, name)(x.double())
    expected = exact.float()
    assert torch.equal(got.isnan(), expected.isnan())
    infinite = expected.isinf()
    assert torch.equal(got[infinite], expected[infinite])
    finite = expected.isfinite()
    ulp = torch.from_numpy(np.spacing(expected[finite].abs().numpy())).double()
    error = (got[finite].double() - exact[finite]).abs() / ulp
    assert error.max().item() <= BOUNDS[name]


@pytest.mark.parametrize("name", ["expm1", "log1p", "erf", "tanh", "sqrt"])
def test_sign_of_zero_is_kept(name: str) -> None:
    x = torch.tensor([0.0, -0.0] * 16)
    assert torch.equal(torch.signbit(computed(name, x, 16)), torch.signbit(x))


@pytest.mark.parametrize("lanes", [16, 8])
def test_sigmoid_is_as_exact_as_its_range_allows(lanes: int) -> None:
    x = patterns(9973)
    got, exact = computed("sigmoid", x, lanes), torch.sigmoid(x.double())
    expected = exact.float()
    assert torch.equal(got.isnan(), x.isnan())
    inside = ~x.isnan() & (x >= -87.0)
    ulp = torch.from_numpy(np.spacing(expected[inside].abs().numpy())).double()
    assert ((got[inside].double() - exact[inside]).abs() / ulp).max().item() <= 2.1
    assert got[x < -87.0].abs().max().item() < 2e-38
    assert got[x == float("-inf")].eq(0.0).all()


@pytest.mark.parametrize("lanes", [16, 8])
def test_division_by_one_number_rounds_as_division(lanes: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 1000).exp2()
    x[0, :5] = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0, 1e-42])
    divisor = torch.randn(64).exp2()
    divisor[1:6] = torch.tensor([float("inf"), 0.0, 1e-40, 3e38, float("nan")])
    divided = ex.op("div", ex.load("x", ex.ax("n"), ex.ax("c")), ex.op("neg", ex.load("d", ex.ax("n"))))
    p = harness.program(
        harness.nest("f", {"n": 64, "c": 1000}, 2, Store("y", (ex.ax("n"), ex.ax("c")), divided)),
        buffers=[ex.tensor("x", 64, 1000), ex.tensor("d", 64, at=1), ex.out("y", 64, 1000)],
    )
    got = harness.run(p, [x, divisor], {"lanes": lanes})
    expected = x / -divisor[:, None]
    torch.testing.assert_close(got, expected, rtol=6e-8, atol=2e-45, equal_nan=True)
