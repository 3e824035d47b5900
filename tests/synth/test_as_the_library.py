"""References whose own kernels differ from PyTorch's decompositions, or look at values: what is captured
gives what the library gives, infinities, NaN and padded labels included."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.ir import LibraryCall
from kevolve_core.synth.capture import capture
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.unchecked import unvalidated

Check = Callable[..., Any]
Reference = Callable[..., torch.Tensor]


def _rows() -> torch.Tensor:
    return torch.randn(7, 9)


CHECKED: dict[str, tuple[Reference, Callable[[], list[torch.Tensor]]]] = {
    "cov": (torch.cov, lambda: [_rows()]),
    "cov of one variable": (lambda x: x.cov(correction=0), lambda: [torch.randn(9)]),
    "cov of integers": (torch.cov, lambda: [torch.arange(12).reshape(3, 4) % 5]),
    "combinations": (lambda x: torch.combinations(x, 3, with_replacement=True), lambda: [torch.randn(5)]),
    "corrcoef": (torch.corrcoef, lambda: [_rows()]),
    "gaussian_nll": (F.gaussian_nll_loss, lambda: [_rows(), _rows(), _rows().exp()]),
    "gaussian_nll of one variance a row": (
        lambda x, y, v: F.gaussian_nll_loss(x, y, v, full=True, reduction="none"),
        lambda: [_rows(), _rows(), torch.rand(7)],
    ),
    "normal": (
        lambda x, s: torch.distributions.Normal(x, s).log_prob(x + 1),
        lambda: [_rows(), _rows().exp()],
    ),
    "entropy": (lambda x: torch.distributions.Categorical(logits=x).entropy(), lambda: [_rows()]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_a_function_that_looks_at_values_only_to_refuse_is_captured(check: Check, name: str) -> None:
    function, inputs = CHECKED[name]
    check(function, inputs())


def test_distributions_look_at_their_parameters_again_after_a_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch.compile turns it off for its process.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    capture(lambda x: torch.distributions.Normal(x, x.exp()).mean, [_rows()])
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        torch.distributions.Normal(_rows(), -torch.ones(7, 9))


def test_captures_that_overlap_leave_the_validation_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    first, second = unvalidated(), unvalidated()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.distributions.Distribution._validate_args
    second.__exit__(None, None, None)
    assert torch.distributions.Distribution._validate_args


SAMPLED = [
    *itertools.product(("bilinear", "nearest"), ("zeros", "border", "reflection"), (False, True)),
    ("bicubic", "zeros", False),
    ("bicubic", "reflection", True),
]


@pytest.mark.parametrize(("mode", "padding", "align"), SAMPLED)
def test_grid_sample_reads_nothing_outside(check: Check, mode: str, padding: str, align: bool) -> None:
    x = torch.randn(2, 3, 5, 7)
    x[:, :, 0, 0] = math.inf  # where a careless kernel reads for what lies outside
    grid = torch.rand(2, 4, 6, 2) * 5 - 2.5
    grid[0, 0, 0] = math.nan
    check(lambda x, g: F.grid_sample(x, g, mode, padding, align_corners=align), [x, grid])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_labels_after_the_first_padding_do_not_count(check: Check, reduction: str) -> None:
    labels = torch.tensor([[1, 3, -1, 0, 2], [-1, 0, 1, 2, 3], [4, 3, 2, 1, 0], [2, 2, -1, -1, -1]])
    check(lambda x: F.multilabel_margin_loss(x, labels, reduction=reduction), [torch.randn(4, 5)])


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_margin_that_is_nan_counts_nothing(check: Check, p: int, reduction: str) -> None:
    x = torch.randn(4, 5)
    x[1, 2] = x[1, 3] = math.inf
    target, weight = torch.tensor([0, 2, 4, 1]), torch.rand(5)
    check(lambda x: F.multi_margin_loss(x, target, p=p, weight=weight, margin=0.5, reduction=reduction), [x])


def test_a_library_operator_whose_other_results_are_left_out_gives_its_first(check: Check) -> None:
    x, w = torch.randn(2, 3, 7, 7), torch.randn(4, 3, 3, 3)
    program = check(lambda x, w: torch.func.grad(lambda t: (F.conv2d(t, w) * 0.5).sum())(x), [x, w])
    (call,) = [step for step in program.steps if isinstance(step, LibraryCall)]
    assert (len(call.outputs), call.outputs[0] != "", call.outputs[1:]) == (3, True, ("", ""))


@pytest.mark.parametrize("shape", [(9,), (5, 7)])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradients_of_a_layer_norm_have_the_librarys_infinities(
    check: Check, shape: tuple[int, ...], which: int
) -> None:
    y = torch.randn(3, *shape)
    y[1].view(-1)[2] = math.inf

    def gradient(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        def total(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (F.layer_norm(x, shape, w, b) * y).sum()

        return torch.func.grad(total, argnums=which)(x, w, b)

    check(gradient, [torch.randn(3, *shape), torch.randn(shape), torch.randn(shape)])


@pytest.mark.parametrize("length", [9, 1500])
@pytest.mark.parametrize("place", [0, -2, -1])
def test_a_mean_beside_a_deviation_is_nan_once_infinity_is_met_but_at_the_end(
    check: Check, place: int, length: int
) -> None:
    x = torch.randn(3, length)
    x[1, place] = math.inf
    check(lambda x: torch.std_mean(x, 1), [x])


def test_a_long_mean_beside_a_deviation_is_as_exact_as_its_sum(check: Check) -> None:
    x = torch.randn(3, 2000).sub_(1e-2)
    program = check(lambda x: torch.std_mean(x, 1), [x])
    _, mean = run_program(program, [x])
    assert float((mean - x.double().mean(1)).abs().max()) <= 2e-9


@pytest.mark.parametrize("factor", [1.7, 1.3, 0.6, 2.5])
def test_weights_of_linear_interpolation_are_the_librarys_to_the_last_bit(
    lower: Callable[..., Any], factor: float
) -> None:
    def reference(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=factor, mode="linear")

    x = torch.eye(17)[None]
    assert torch.equal(run_program(lower(reference, [x]).program, [x]), reference(x))
