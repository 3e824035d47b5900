"""Pooling in one, two and three dimensions, sliding and adaptive."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.ir import LibraryCall

CASES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "max 1d, dilated": (lambda x: F.max_pool1d(x, 3, 2, 1, 2), (2, 3, 17)),
    "max 2d": (lambda x: F.max_pool2d(x, 2), (2, 3, 9, 10)),
    "max 2d, padded, ceil": (lambda x: F.max_pool2d(x, (3, 2), 2, 1, ceil_mode=True), (2, 3, 9, 10)),
    "max 2d, unbatched": (lambda x: F.max_pool2d(x, 3, 1), (3, 6, 7)),
    "max 3d": (lambda x: F.max_pool3d(x, 2, 2, 1), (1, 2, 5, 6, 7)),
    "max 2d of a product": (lambda x: F.max_pool2d((x * 2).relu(), 3, 2, 1), (2, 3, 9, 10)),
    "avg 1d": (lambda x: F.avg_pool1d(x, 4, 3, 1), (2, 3, 17)),
    "avg 2d": (lambda x: F.avg_pool2d(x, 2), (2, 3, 9, 10)),
    "avg 2d, ceil": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), (2, 3, 8, 10)),
    "avg 2d, padding not counted": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 3, 8, 10)),
    "avg 2d, divisor": (lambda x: F.avg_pool2d(x, 3, 2, divisor_override=5), (2, 3, 8, 10)),
    "avg 3d": (lambda x: F.avg_pool3d(x, (2, 3, 1), 2, (1, 1, 0)), (1, 2, 5, 6, 7)),
    "adaptive avg 1d": (lambda x: F.adaptive_avg_pool1d(x, 5), (2, 3, 17)),
    "adaptive avg 2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (2, 3, 8, 10)),
    "adaptive avg 3d": (lambda x: F.adaptive_avg_pool3d(x, (2, 3, 4)), (1, 2, 5, 6, 7)),
    "adaptive max 1d": (lambda x: F.adaptive_max_pool1d(x, 5), (2, 3, 17)),
    "adaptive max 2d": (lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True), (2, 3, 8, 10)),
    "adaptive max 3d": (lambda x: F.adaptive_max_pool3d(x, (2, 3, 4)), (1, 2, 5, 6, 7)),
    "max with indices": (lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), (2, 3, 9, 10)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pooling_is_a_generated_nest(check: Callable[..., Any], name: str) -> None:
    function, shape = CASES[name]
    program = check(function, [torch.randn(shape)])
    assert [s for s in program.steps if isinstance(s, LibraryCall)] == []


def test_positions_of_maxima_are_the_first_of_equals_and_the_last_nan(check: Callable[..., Any]) -> None:
    x = torch.tensor([[[1.0, 1.0, 0.0, 2.0], [math.nan, 0.0, 2.0, 2.0], [0.0, math.nan, -math.inf, -math.inf],
                       [5.0, 0.0, -math.inf, -math.inf]]])  # fmt: skip
    check(lambda t: F.max_pool2d(t, 2, return_indices=True), [x])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pooling_of_other_dtypes(check: Callable[..., Any], dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, 9).to(dtype)
    check(lambda t: (F.max_pool2d(t, 3, 2, 1), F.avg_pool2d(t, 3, 2, 1)), [x])
