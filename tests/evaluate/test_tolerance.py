"""The tolerance policies on their own."""

from __future__ import annotations

import math

import pytest
import torch

from kevolve_core.evaluate import tolerance
from kevolve_core.evaluate.tolerance import BaselineLeaf, baseline_leaf, compare, parity_bound, scale_of
from kevolve_core.kernelspec import Precision

PARITY = Precision()
EPS = torch.finfo(torch.float32).eps
REFERENCE = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rounding_to_the_output_type_passes() -> None:
    assert compare(REFERENCE.float(), REFERENCE, None, PARITY) is None


def test_an_error_of_three_epsilon_passes_and_of_six_does_not() -> None:
    scale = scale_of(REFERENCE)
    zero = torch.zeros_like(REFERENCE).float()
    small = torch.zeros_like(REFERENCE)
    for factor, passes in ((3, True), (6, False)):
        off = REFERENCE.clone()
        off[3, 4] += factor * EPS * scale
        # The rounding of the output itself is kept out: reference and output are moved to near zero there.
        out, reference = zero.clone(), small.clone()
        reference[0, 0] = scale * 64
        out[0, 0] = reference[0, 0].float()
        out[3, 4] = factor * EPS * scale
        assert (compare(out, reference, None, PARITY) is None) is passes


def test_twice_the_baselines_error_passes_and_thrice_does_not() -> None:
    baseline = BaselineLeaf(error=1e-3)
    for factor, passes in ((1.9, True), (3.0, False)):
        out = (REFERENCE + 0).float()
        out[1, 2] += factor * 1e-3
        assert (compare(out, REFERENCE, baseline, PARITY) is None) is passes


def test_a_peak_may_be_off_by_its_own_rounding() -> None:
    reference = torch.full((4096,), 1e-4, dtype=torch.float64)
    reference[7] = 0.5
    lucky = baseline_leaf(reference.float(), reference)
    for ulps, passes in ((1.0, True), (5.0, False)):
        out = reference.clone()
        out[7] += ulps * 2.0**-24  # one unit in the last place of 0.5
        mismatch = compare(out.float(), reference, lucky, PARITY)
        assert (mismatch is None) is passes


def test_one_wrong_element_in_a_million_is_found_and_named() -> None:
    reference = torch.randn(1000, 1000, dtype=torch.float64)
    out = reference.float()
    out[123, 456] += 1e-3
    mismatch = compare(out, reference, baseline_leaf(reference.float(), reference), PARITY)
    assert mismatch is not None
    assert mismatch.index == (123, 456)
    assert mismatch.wrong_elements == 1


def test_a_constant_does_not_pass_where_the_spread_is_small() -> None:
    reference = 1000 + 1e-2 * torch.randn(4096, dtype=torch.float64)
    assert scale_of(reference) == pytest.approx(1e-2, rel=0.1)
    constant = torch.full((4096,), 1000.0)
    assert compare(constant, reference, baseline_leaf(reference.float(), reference), PARITY) is not None


def test_the_scale_ignores_what_is_not_finite() -> None:
    assert scale_of(torch.tensor([3.0, -3.0, math.inf, math.nan], dtype=torch.float64)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("out", "reference", "right"),
    [
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (math.nan, math.nan, True),
        (math.nan, math.inf, False),
        (1.0, math.nan, False),
        (math.nan, 1.0, False),
        (math.inf, 1e300, True),  # beyond float32: infinity is its value there
        (3e38, math.inf, False),
    ],
)
def test_values_that_are_not_finite_must_match(out: float, reference: float, right: bool) -> None:
    o, r = torch.tensor([1.0, out, -1.0]), torch.tensor([1.0, reference, -1.0], dtype=torch.float64)
    assert (compare(o, r, None, PARITY) is None) is right


def test_where_the_baseline_overflows_the_candidate_may_too() -> None:
    reference = torch.tensor([1.0, 3e38], dtype=torch.float64)
    overflowing = torch.tensor([1.0, math.inf])
    assert compare(overflowing, reference, None, PARITY) is not None
    assert compare(overflowing, reference, baseline_leaf(overflowing, reference), PARITY) is None


def test_integers_must_equal_the_reference_or_the_baseline() -> None:
    reference, baseline = torch.tensor([1, 2, 3]), BaselineLeaf(0.0, torch.tensor([1, 2, 4]))
    assert compare(torch.tensor([1, 2, 3]), reference, baseline, PARITY) is None
    assert compare(torch.tensor([1, 2, 4]), reference, baseline, PARITY) is None
    mismatch = compare(torch.tensor([1, 0, 3]), reference, baseline, PARITY)
    assert mismatch is not None
    assert mismatch.index == (1,)


def test_relaxed_is_elementwise() -> None:
    relaxed = Precision("relaxed", rtol=1e-2, atol=1e-3)
    reference = torch.tensor([0.0, 100.0], dtype=torch.float64)
    assert compare(torch.tensor([9e-4, 100.9]), reference, None, relaxed) is None
    mismatch = compare(torch.tensor([2e-3, 100.9]), reference, None, relaxed)
    assert mismatch is not None
    assert mismatch.index == (0,)


def test_the_bound_is_the_larger_of_both_parts() -> None:
    assert parity_bound(torch.float32, 1.0, BaselineLeaf(1.0)) == 2.0
    assert parity_bound(torch.float32, 1.0, BaselineLeaf(0.0)) == 4 * EPS


def test_an_element_far_above_the_rms_has_two_epsilons_of_its_own() -> None:
    reference = torch.full((4096,), 1e-3, dtype=torch.float64)
    reference[7] = 1.0  # a peak of a softmax
    for factor, passes in ((1.0, True), (3.0, False)):
        out = reference.float()
        out[7] += factor * EPS
        assert (compare(out, reference, BaselineLeaf(0.0), PARITY) is None) is passes


def test_its_own_epsilons_do_not_let_a_coarse_constant_pass() -> None:
    reference = 1000 + torch.randn(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant = torch.full((4096,), 1000.0, dtype=torch.bfloat16)
    assert compare(constant, reference, BaselineLeaf(0.0), PARITY) is not None


@pytest.mark.parametrize("policy", ["parity", "relaxed"])
@pytest.mark.parametrize("off", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("special", [None, math.inf, math.nan])
def test_a_large_leaf_is_judged_as_a_whole_though_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch, policy: str, off: float, special: float | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(5, 13, generator=generator, dtype=torch.float64)
    reference[0, 0] = 40.0  # far above the RMS: it has units of its own
    if special is not None:
        reference[4, 12] = special
    value = reference.float()
    value[3, 7] += off
    value[0, 0] *= 1 + 1e-7

    def judged(part: int) -> object:
        monkeypatch.setattr(tolerance, "_HOST_PART", part)
        leaf = baseline_leaf(reference.float(), reference)
        return compare(value, reference, leaf, Precision(policy, rtol=1e-5, atol=1e-6))

    assert judged(16) == judged(1 << 20)


def test_an_infinity_in_the_last_part_of_a_large_leaf_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "_HOST_PART", 16)
    reference = torch.ones(5, 13, dtype=torch.float64)
    value = torch.ones(5, 13)
    value[4, 11] = math.inf
    mismatch = compare(value, reference, None, Precision())
    assert mismatch is not None
    assert mismatch.index == (4, 11)


@pytest.mark.parametrize("policy", ["parity", "relaxed"])
def test_a_bound_that_is_no_number_lets_nothing_pass(policy: str) -> None:
    reference = torch.ones(5, 13, dtype=torch.float64)
    value = torch.ones(5, 13)
    value[3, 7] = 2.0
    precision = Precision(policy, rtol=math.nan, atol=0.0)
    mismatch = compare(value, reference, None, precision, scale=math.nan)
    assert mismatch is not None
