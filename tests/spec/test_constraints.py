"""Promises that an input declares hold in every family of test data, for any sizes and bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import Case, Distribution, InputSpec
from kevolve_core.spec.draw import VARIANTS, draw_tensor, generator

variant = st.sampled_from(VARIANTS)
seed = st.integers(0, 2**31)
shape = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
bounds = st.tuples(st.integers(-(2**62), 2**62), st.integers(1, 2**62)).map(lambda p: (p[0], p[0] + p[1]))
quick = settings(max_examples=40, deadline=None)


def draw(
    shape: tuple[int, ...], dtype: str, d: Distribution, variant: str, seed: int, **drawn: Any
) -> torch.Tensor:
    return draw_tensor(InputSpec("x", shape, dtype, d), variant, generator(seed), drawn)


@quick
@given(shape, bounds, variant, seed)
def test_integers_stay_in_their_range(shape: tuple[int, ...], ends: tuple[int, int], v: str, s: int) -> None:
    x = draw(shape, "int64", Distribution("integers", *ends), v, s)
    assert (tuple(x.shape), x.dtype) == (shape, torch.int64)
    assert ends[0] <= int(x.min())
    assert int(x.max()) < ends[1]


@quick
@given(shape, bounds, variant, seed)
def test_sorted_integers_ascend(shape: tuple[int, ...], ends: tuple[int, int], v: str, s: int) -> None:
    x = draw(shape, "int64", Distribution("sorted", *ends), v, s)
    assert ends[0] <= int(x.min())
    assert int(x.max()) < ends[1]
    assert bool((x[..., 1:] >= x[..., :-1]).all())


@quick
@given(shape, st.integers(-100, 100), st.integers(0, 20), variant, seed)
def test_unique_integers_ascend_strictly(shape: tuple[int, ...], low: int, room: int, v: str, s: int) -> None:
    high = low + shape[-1] + room
    x = draw(shape, "int32", Distribution("unique_sorted", low, high), v, s)
    assert low <= int(x.min())
    assert int(x.max()) < high
    assert bool((x.diff(dim=-1) > 0).all())


@quick
@given(shape, st.integers(0, 1000), variant, seed)
def test_offsets_run_from_zero_to_their_end(shape: tuple[int, ...], high: int, v: str, s: int) -> None:
    shape = (*shape[:-1], shape[-1] + 1)
    x = draw(shape, "int32", Distribution("offsets", None, high), v, s)
    assert bool((x[..., 0] == 0).all())
    assert bool((x[..., -1] == high).all())
    assert bool((x.diff(dim=-1) >= 0).all())


@quick
@given(shape, variant, seed)
def test_permutations_have_every_index(shape: tuple[int, ...], v: str, s: int) -> None:
    x = draw(shape, "int64", Distribution("permutation"), v, s)
    assert torch.equal(x.sort(-1).values, torch.arange(shape[-1]).expand(shape))


@quick
@given(
    shape,
    st.integers(-1000, 1000),
    st.floats(0.015625, 1000.0),
    st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
    st.sampled_from(["uniform", "sorted"]),
    variant,
    seed,
)
def test_declared_float_ranges_hold(
    shape: tuple[int, ...], low: int, width: float, dtype: str, kind: str, v: str, s: int
) -> None:
    x = draw(shape, dtype, Distribution(kind, low, low + width), v, s).double()
    # A half-precision type may have no value between two close ends: then the nearest to the lower one.
    nearest = torch.tensor(low, dtype=getattr(torch, dtype)).double().item()
    assert bool(((x >= low) & (x < low + width) | (x == nearest)).all())


@quick
@given(st.integers(1, 64), variant, seed)
def test_unique_floats_ascend_strictly(n: int, v: str, s: int) -> None:
    x = draw((3, n), "float32", Distribution("unique_sorted", -1.0, 1.0), v, s)
    assert bool((x.diff(dim=-1) > 0).all())
    assert float(x.min()) >= -1.0
    assert float(x.max()) < 1.0


def test_unique_floats_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(SpecError, match="do not fit"):
        draw((4096,), "float16", Distribution("unique_sorted", 1.0, 1.5), "base", 0)


@quick
@given(shape, variant, seed)
def test_choices_are_hits_or_declared_misses(shape: tuple[int, ...], v: str, s: int) -> None:
    table = torch.arange(0, 1000, 7)
    x = draw(shape, "int64", Distribution("choice", 5000, 0.5, "table"), v, s, table=table)
    assert bool((torch.isin(x, table) | (x >= 5000)).all())


def test_choices_hit_as_often_as_declared() -> None:
    table = torch.arange(0, 1000, 7)
    x = draw((10000,), "int64", Distribution("choice", 5000, 0.9, "table"), "base", 1, table=table)
    assert abs(float((x < 5000).float().mean()) - 0.9) < 0.02


def test_a_choice_may_come_before_its_source() -> None:
    from kevolve_core.spec import parse_spec
    from kevolve_core.spec.runtime import draw_inputs

    table = {"shape": [9], "dtype": "int64", "distribution": {"kind": "unique_sorted", "high": 100}}
    ids = {"shape": [50], "dtype": "int64", "distribution": {"kind": "choice", "source": "table"}}
    spec = parse_spec(
        {
            "kevolve": 1,
            "reference": {"python": "import torch\ndef f(ids, table): return torch.isin(ids, table)"},
            "inputs": {"ids": ids, "table": table},
        }
    )
    case: Case = spec.cases[0]
    drawn = draw_inputs(spec, case, 3)
    assert bool(torch.isin(drawn[0], drawn[1]).all())


@quick
@given(shape, seed, st.floats(0, 1))
def test_bernoulli_is_zero_or_one(shape: tuple[int, ...], s: int, p: float) -> None:
    x = draw(shape, "float32", Distribution("bernoulli", None, p), "base", s)
    assert bool(((x == 0) | (x == 1)).all())


@quick
@given(variant, seed)
def test_float64_inputs_are_not_rounded_to_float32(v: str, s: int) -> None:
    x = draw((64, 64), "float64", Distribution(), v, s)
    assert not torch.equal(x, x.float().double())


def test_long_draws_do_not_repeat() -> None:
    x = draw((1 << 22,), "float64", Distribution(), "base", 0)
    assert x.unique().numel() == x.numel()
