"""Reductions, normalisations, losses and scans against eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

REDUCTIONS = ["sum", "mean", "amax", "amin", "var", "std", "logsumexp"]
#: What every run tries; the rest is marked slow.
MODES = ["mean", *(pytest.param(r, marks=pytest.mark.slow) for r in ("sum", "none"))]
DIMS = [(0, 2, 3), *(pytest.param(d, marks=pytest.mark.slow) for d in ((2, 3), (1,)))]
Case = tuple[Callable[..., Any], list[Any]]


@pytest.mark.parametrize("name", [*REDUCTIONS, "prod"])
@pytest.mark.parametrize("dim", [-1, 0])
@pytest.mark.parametrize("keepdim", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_reduction_over_a_dimension(check: Any, name: str, dim: int, keepdim: bool) -> None:
    check(lambda x: getattr(torch, name)(x, dim, keepdim=keepdim), [torch.randn(5, 7)])


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dims", DIMS)
def test_reduction_over_dimensions(check: Any, name: str, dims: tuple[int, ...]) -> None:
    check(lambda x: getattr(torch, name)(x, dims), [torch.randn(2, 6, 3, 5)])


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "var", "logsumexp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_reduction_in_other_precisions(check: Any, name: str, dtype: torch.dtype) -> None:
    check(lambda x: getattr(torch, name)(x, -1), [torch.randn(5, 70).to(dtype)])


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod", "argmax", "argmin", "var"])
def test_reduction_of_everything(check: Any, name: str) -> None:
    check(getattr(torch, name), [torch.randn(3, 5)])


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "argmax"])
@pytest.mark.parametrize("shape", [(300, 500), (100003,), (3, 65537)])
def test_large_reduction_of_everything(check: Any, name: str, shape: tuple[int, ...]) -> None:
    check(getattr(torch, name), [torch.randn(shape)])


OTHERS: dict[str, Case] = {
    "sum_of_int32": (lambda x: x.sum(-1), [torch.arange(35, dtype=torch.int32).view(5, 7)]),
    "sum_of_bool": (lambda x: (x > 0).sum(0), [torch.randn(5, 7)]),
    "sum_to_float64": (lambda x: x.sum(-1, dtype=torch.float64), [torch.randn(5, 7)]),
    "mean_to_float32": (lambda x: x.mean(-1, dtype=torch.float32), [torch.randn(5, 7).half()]),
    "any": (lambda x: (x > 1).any(-1), [torch.randn(5, 7)]),
    "all": (lambda x: (x > -3).all(), [torch.randn(5, 7)]),
    "max_with_index": (lambda x: tuple(x.max(-1)), [torch.randn(5, 7)]),
    "argmax_keepdim": (lambda x: x.argmax(0, keepdim=True), [torch.randn(5, 7)]),
    "var_mean": (lambda x: torch.var_mean(x, -1), [torch.randn(5, 7)]),
    "std_uncorrected": (lambda x: torch.std(x, (0, 1), correction=0), [torch.randn(5, 7)]),
    "norm": (lambda x: x.norm(dim=-1), [torch.randn(5, 7)]),
    "norm_1": (lambda x: torch.linalg.vector_norm(x, 1, dim=-1), [torch.randn(5, 7)]),
    "norm_3": (lambda x: torch.linalg.vector_norm(x, 3, dim=0), [torch.randn(5, 7)]),
    "norm_inf": (lambda x: torch.linalg.vector_norm(x, float("inf")), [torch.randn(5, 7)]),
    "normalize": (lambda x: F.normalize(x, dim=1), [torch.randn(2, 6, 3)]),
    "count_nonzero": (lambda x: torch.count_nonzero(x > 0), [torch.randn(5, 7)]),
    "cumsum": (lambda x: x.cumsum(-1), [torch.randn(5, 7)]),
    "cumsum_first": (lambda x: x.cumsum(0), [torch.randn(5, 7)]),
    "cumsum_int": (lambda x: x.cumsum(1), [torch.randint(0, 9, (5, 7))]),
    "cumprod": (lambda x: x.cumprod(-1), [torch.randn(5, 7)]),
    "cumsum_share": (lambda x: x.cumsum(-1) / x.sum(-1, keepdim=True), [torch.rand(5, 7) + 1]),
    "row_and_column": (
        lambda x: x / x.sum(-1, keepdim=True) / x.sum(0, keepdim=True),
        [torch.rand(5, 7) + 1],
    ),
    "softmax_of_softmax": (lambda x: F.softmax(F.softmax(x, -1), 0), [torch.randn(5, 7)]),
    "whole_norm": (lambda x: x / x.norm(), [torch.randn(300, 500)]),
    "one_element": (lambda x: F.softmax(x, -1) + x.sum(), [torch.randn(1, 1)]),
    "reduced_by_hand": (lambda x: x.view(5, 7, 3).sum((0, 2)), [torch.randn(105)]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_reduction(check: Any, name: str) -> None:
    check(*OTHERS[name])


X4 = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(1))
NORMS: dict[str, Case] = {
    "softmax": (lambda x: F.softmax(x, -1), [X4]),
    "softmax_channels": (lambda x: F.softmax(x, 1), [X4]),
    "softmin": (lambda x: F.softmin(x, 0), [X4]),
    "softmax_half": (lambda x: F.softmax(x, -1), [X4.half()]),
    "softmax_to_float32": (lambda x: F.softmax(x, -1, dtype=torch.float32), [X4.half()]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), [X4]),
    "log_softmax_bfloat16": (lambda x: F.log_softmax(x, -1), [X4.bfloat16()]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (5,), w, b), [X4, torch.randn(5), torch.randn(5)]),
    "layer_norm_two_dims": (lambda x: F.layer_norm(x, (3, 5)), [X4]),
    "layer_norm_half": (lambda x: F.layer_norm(x, (5,)), [X4.half()]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (5,), w), [X4, torch.randn(5)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 3, w, b), [X4, torch.randn(6), torch.randn(6)]),
    "one_group": (lambda x: F.group_norm(x, 1), [X4]),
    "instance_norm": (lambda x: F.instance_norm(x), [X4]),
    "batch_norm": (lambda x, m, v: F.batch_norm(x, m, v), [X4, torch.randn(6), torch.rand(6) + 0.5]),
    "batch_norm_of_the_batch": (lambda x: F.batch_norm(x, None, None, training=True), [X4]),
    "batch_norm_by_hand": (
        lambda x: (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True) + 1e-5).sqrt(),
        [X4],
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_is_right_and_one_nest(check: Any, name: str) -> None:
    assert len(check(*NORMS[name]).steps) == 1


def test_a_row_of_infinities_gives_what_eager_gives(check: Any) -> None:
    x = torch.randn(3, 4)
    x[1] = float("-inf")
    x[2, 1] = float("inf")
    check(lambda x: (F.softmax(x, -1), torch.logsumexp(x, -1)), [x])


def _labels(*shape: int, classes: int) -> torch.Tensor:
    t = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(2))
    t.view(-1)[1] = -100
    return t


ELEMENTWISE = [
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
    "binary_cross_entropy_with_logits",
]


@pytest.mark.parametrize("reduction", MODES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_loss(check: Any, name: str, reduction: str) -> None:
    check(lambda x, y: getattr(F, name)(x, y, reduction=reduction), [torch.randn(5, 7), torch.rand(5, 7)])


# Each takes (x, y, labels, reduction) and uses what it needs.
# ruff: noqa: ARG005
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": lambda x, y, t, r: F.cross_entropy(x, t, reduction=r),
    "cross_entropy_weighted": lambda x, y, t, r: F.cross_entropy(x, t, weight=y[0].abs(), reduction=r),
    "cross_entropy_smoothed": lambda x, y, t, r: F.cross_entropy(x, t, label_smoothing=0.1, reduction=r),
    "cross_entropy_soft": lambda x, y, t, r: F.cross_entropy(x, F.softmax(y, -1), reduction=r),
    "nll": lambda x, y, t, r: F.nll_loss(x, t, reduction=r),
    "kl_div": lambda x, y, t, r: F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction=r),
    "bce": lambda x, y, t, r: F.binary_cross_entropy(x.sigmoid(), y.sigmoid(), reduction=r),
    "cosine_embedding": lambda x, y, t, r: F.cosine_embedding_loss(x, y, torch.ones(5), reduction=r),
    "hinge_embedding": lambda x, y, t, r: F.hinge_embedding_loss(x, y.sign(), reduction=r),
    "margin_ranking": lambda x, y, t, r: F.margin_ranking_loss(x, y, torch.ones_like(x), reduction=r),
    "triplet_margin": lambda x, y, t, r: F.triplet_margin_loss(x, y, x.flip(0), reduction=r),
    "poisson": lambda x, y, t, r: F.poisson_nll_loss(x, y.abs(), reduction=r),
}


@pytest.mark.parametrize("reduction", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_loss(check: Any, name: str, reduction: str) -> None:
    x, y = torch.randn(5, 7), torch.randn(5, 7)
    check(lambda x, y, t: LOSSES[name](x, y, t, reduction), [x, y, _labels(5, classes=7)])


def test_cross_entropy_over_channels(check: Any) -> None:
    check(F.cross_entropy, [X4, _labels(2, 3, 5, classes=6)])


def test_cosine_similarity(check: Any) -> None:
    check(lambda x, y: F.cosine_similarity(x, y, dim=1), [torch.randn(5, 7), torch.randn(5, 7)])


def test_a_large_loss_is_reduced_in_two_nests(check: Any) -> None:
    program = check(F.mse_loss, [torch.randn(300, 500), torch.randn(300, 500)])
    assert [n.outer for n in program.nests()] == [1, 0]
