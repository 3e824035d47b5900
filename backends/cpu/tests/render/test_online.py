"""A maximum and a sum of exponentials in one pass: found where it is one, exact where rows are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import render_harness as harness
import torch
from torch import Tensor

from kevolve_core.ir import Const, Index, Load, LoopNest, Op, Program, Reduce, Store, Var
from kevolve_core.synth.capture import capture
from kevolve_core.synth.program import synthesise
from kevolve_cpu.render.online import online_of
from kevolve_cpu.spaces import schedule_space

Reference = Callable[[Tensor], Tensor]
SOFTMAX: Reference = lambda x: torch.softmax(x, -1)  # noqa: E731
LOG_SOFTMAX: Reference = lambda x: torch.log_softmax(x, -1)  # noqa: E731
LOGSUMEXP: Reference = lambda x: torch.logsumexp(x, -1)  # noqa: E731


def lowered(fn: Reference, x: Tensor) -> Program:
    return synthesise(capture(fn, (x,))).program


def one_pass(fn: Reference, x: Tensor, **point: object) -> Tensor:
    """``fn`` of ``x`` with its first nest in one pass; says so in its text."""
    p = lowered(fn, x)
    choices = {"online": 1024, "keep": False, "vector_axis": "j0", **point}
    assert schedule_space(p.steps[0], None).repaired(choices)["online"] == 1024
    candidate = harness.render(p, choices)
    assert "_so_far" in candidate.files["kernel.cpp"]
    result: Tensor = harness.load(candidate).f(x)
    return result


def rows_with_specials(columns: int, dtype: torch.dtype) -> Tensor:
    """Rows, in order: finite, masked at both ends, all -inf, +inf, NaN early, NaN late, NaN among -inf,
    rising, both infinities."""
    torch.manual_seed(1)
    x = torch.randn(9, columns, dtype=torch.float64) * 4
    x[1, :1500] = -math.inf
    x[1, -100:] = -math.inf
    x[2] = -math.inf
    x[3, 700] = math.inf
    x[4, 3] = math.nan
    x[5, -2] = math.nan
    x[6, :1200] = -math.inf
    x[6, 17] = math.nan
    x[7] = torch.linspace(-80, 80, columns)
    x[8, 5], x[8, 9] = math.inf, -math.inf
    return x.to(dtype)


def agrees(ours: Tensor, reference: Reference, x: Tensor) -> None:
    """Specials equal PyTorch's; the rest is within rounding of the output's type of float64."""
    exact = reference(x.double())
    plain = reference(x)
    assert torch.equal(ours.isnan(), plain.isnan())
    assert torch.equal(ours.isinf(), plain.isinf())
    good = plain.isfinite()
    eps = torch.finfo(ours.dtype).eps
    error = (ours.double() - exact)[good].abs()
    assert (error <= 8 * eps * exact[good].abs() + 4 * eps * exact[good].square().mean().sqrt()).all()


@pytest.mark.parametrize("fn", [SOFTMAX, LOG_SOFTMAX, LOGSUMEXP], ids=["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("columns", [2500, 4096])
def test_rows_of_every_kind(fn: Reference, columns: int) -> None:
    x = rows_with_specials(columns, torch.float32)
    agrees(one_pass(fn, x), fn, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    x = rows_with_specials(2531, dtype)
    agrees(one_pass(LOG_SOFTMAX, x, lanes=8), LOG_SOFTMAX, x)


@pytest.mark.parametrize("lanes", [4, 8])
def test_narrow_vectors(lanes: int) -> None:
    x = rows_with_specials(2531, torch.float32)
    agrees(one_pass(SOFTMAX, x, lanes=lanes, unroll=2, prefetch="far"), SOFTMAX, x)


def test_an_expression_before_the_softmax() -> None:
    x = rows_with_specials(2531, torch.float32)

    def scaled(x: Tensor) -> Tensor:
        return torch.softmax(torch.where(x > 3, -math.inf, x * 0.5), -1)

    agrees(one_pass(scaled, x), scaled, x)


def test_long_rows_whose_exponentials_serve_once_take_one_pass_by_default() -> None:
    x = torch.zeros(4, 32000)
    defaults = [schedule_space(lowered(fn, x).steps[0], None).default() for fn in (SOFTMAX, LOGSUMEXP)]
    assert [d["online"] for d in defaults] == [0, 1024]


def test_it_can_be_turned_off() -> None:
    p = lowered(LOGSUMEXP, torch.zeros(4, 4096))
    assert "_so_far" not in harness.render(p, {"online": 0}).files["kernel.cpp"]


def test_a_sum_below_another_maximum_stays_apart() -> None:
    x, y = (Load(n, (Index("n"), Index("c")), "float32") for n in ("x", "y"))
    top = Reduce("top", "max", x, ("c",), "float32", "float32")
    shifted = Op("sub", (y, Var("top", "float32")), "float32")
    total = Reduce("total", "sum", Op("exp", (shifted,), "float32"), ("c",), "float32", "float32")
    store = Store("out", (Index("n"),), Var("total", "float32"))
    assert online_of(_nest(top, total, store)) is None


def test_a_sum_of_doubled_exponents_stays_apart() -> None:
    x = Load("x", (Index("n"), Index("c")), "float32")
    top = Reduce("top", "max", x, ("c",), "float32", "float32")
    shifted = Op("sub", (x, Var("top", "float32")), "float32")
    doubled = Op("exp", (Op("mul", (shifted, Const(2.0, "float32")), "float32"),), "float32")
    total = Reduce("total", "sum", doubled, ("c",), "float32", "float32")
    store = Store("out", (Index("n"),), Var("total", "float32"))
    assert online_of(_nest(top, total, store)) is None


def _nest(*body: Reduce | Store) -> LoopNest:
    return harness.nest("rows", {"n": 8, "c": 4096}, 1, *body, anchor="reduction")
