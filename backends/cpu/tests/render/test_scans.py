"""Scans in vectors along the scanned axis."""

from __future__ import annotations

import ir_examples as ex
import pytest
import render_harness as harness
import torch

from kevolve_core.ir import Op, Program, Scan, Store, Var
from kevolve_cpu.spaces import schedule_space

LENGTHS = (1, 2, 7, 8, 20, 64, 1003)
WAYS = [(False, False), (True, False), (False, True), (True, True)]


def scans(
    combiner: str,
    exclusive: bool,
    reverse: bool,
    dtype: str = "float32",
    lengths: tuple[int, ...] = LENGTHS,
    accumulate: str = "",
) -> Program:
    """A nest for each of ``lengths``: rows of ``x<length>`` scanned into ``y<length>``."""
    steps, buffers = [], []
    for n in lengths:
        value = ex.load(f"x{n}", ex.ax("n"), ex.ax("c"), dtype=dtype)
        if accumulate:
            value = Op("cast", (value,), accumulate)
        kind = accumulate or dtype
        scan = Scan("r", combiner, value, "c", kind, kind, exclusive, reverse)
        store = Store(f"y{n}", (ex.ax("n"), ex.ax("c")), Var("r", kind))
        steps.append(harness.nest(f"scan{n}", {"n": 5, "c": n}, 1, scan, store, anchor="scan"))
        buffers += [
            ex.tensor(f"x{n}", 5, n, dtype=dtype, at=len(steps) - 1),
            ex.out(f"y{n}", 5, n, dtype=kind),
        ]
    return harness.program(*steps, buffers=buffers)


def along(**point: object) -> dict[str, object]:
    return {"vector_axis": "c", "lanes": 8, "parallel": "none", **point}


def source(p: Program, **point: object) -> str:
    return harness.render(p, along(**point)).files["kernel.cpp"]


def expected(x: torch.Tensor, combiner: str, exclusive: bool, reverse: bool) -> torch.Tensor:
    """Scanned one by one in float64 or int64, as ATen does."""
    wide = x.double() if x.dtype.is_floating_point else x.long()
    wide = wide.flip(1) if reverse else wide
    done = wide.cumsum(1) if combiner == "sum" else wide.cumprod(1)
    if exclusive:
        first = torch.full_like(done[:, :1], 0 if combiner == "sum" else 1)
        done = torch.cat([first, done[:, :-1]], 1)
    return done.flip(1) if reverse else done


@pytest.mark.parametrize("lanes", [4, 8])
@pytest.mark.parametrize(("exclusive", "reverse"), WAYS)
def test_sums_of_every_length(exclusive: bool, reverse: bool, lanes: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(5, n) for n in LENGTHS]
    got = harness.run(scans("sum", exclusive, reverse), inputs, along(lanes=lanes))
    for x, y in zip(inputs, got, strict=True):
        torch.testing.assert_close(y, expected(x, "sum", exclusive, reverse).float(), rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize(("exclusive", "reverse"), WAYS)
def test_products_of_every_length(exclusive: bool, reverse: bool) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(5, n).exp() for n in LENGTHS]
    got = harness.run(scans("prod", exclusive, reverse), inputs, along())
    for x, y in zip(inputs, got, strict=True):
        torch.testing.assert_close(y, expected(x, "prod", exclusive, reverse).float(), rtol=2e-7, atol=0)


def test_integers_are_exact() -> None:
    torch.manual_seed(0)
    inputs = [torch.randint(0, 200, (5, n), dtype=torch.uint8) for n in LENGTHS]
    p = scans("sum", False, True, "uint8", accumulate="int64")
    got = harness.run(p, inputs, along())
    assert all(torch.equal(y, expected(x, "sum", False, True)) for x, y in zip(inputs, got, strict=True))


def test_products_beyond_float64_are_those_of_a_loop() -> None:
    x = torch.full((5, 64), 1e30)
    x[0, 20] = 0
    x[1, 5], x[1, 30], x[1, 33] = torch.inf, torch.nan, 0
    x[2, ::2] = 1e-30
    x[3] = 1e-30
    x[3, 40:] = 1e30
    x[4, 11] = 0  # the product overflows at 10 and is NaN from here on
    got = harness.run(scans("prod", False, False, lengths=(64,)), [x], along())
    assert torch.equal(got.nan_to_num(-1.0), x.cumprod(1).nan_to_num(-1.0))


def test_infinite_sums_are_those_of_a_loop() -> None:
    x = torch.ones(5, 64)
    x[0, 20] = torch.inf
    x[1, 5], x[1, 9] = torch.inf, -torch.inf
    x[2, 63] = torch.nan
    got = harness.run(scans("sum", False, False, lengths=(64,)), [x], along())
    torch.testing.assert_close(got, x.cumsum(1), rtol=0, atol=0, equal_nan=True)


def test_a_row_is_scanned_in_vectors() -> None:
    assert "run_on(" in source(scans("sum", False, False, lengths=(64,)))


def test_float64_is_added_one_by_one() -> None:
    x = torch.randn(5, 1003, dtype=torch.float64)
    p = scans("sum", False, False, "float64", (1003,))
    assert "run_on(" not in source(p)
    assert torch.equal(harness.run(p, [x], along()), x.cumsum(1))


def test_a_scan_of_much_memory_fetches_ahead() -> None:
    large, small = scans("sum", False, False, lengths=(1 << 18,)), scans("sum", False, False, lengths=(64,))
    defaults = [schedule_space(p.steps[0], None).default()["prefetch"] for p in (large, small)]
    assert defaults == ["far", "none"]
    assert "__builtin_prefetch" in source(large, prefetch="far")
