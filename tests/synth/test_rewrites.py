"""Named rewrites: what each finds, and that results stay what they were with and without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.errors import ConfigError
from kevolve_core.synth.capture import capture
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import synthesise
from kevolve_core.synth.simplify import simplified


def _graph(function: Callable[..., Any], inputs: Sequence[Any], without: Sequence[str] = ()) -> Graph:
    return simplified(capture(function, inputs, keep=TABLE), without)


def _reversed_sum(x: torch.Tensor) -> torch.Tensor:
    return x.flip(1).cumsum(1).flip(1)


def _dense(x: torch.Tensor) -> torch.Tensor:
    found = [x]
    for k in range(4):
        found.append(torch.cat(found, 1)[:, :2].sin() + k)
    return torch.cat(found, 1)


X, W = torch.randn(5, 7), torch.randn(7, 6)
IMAGE, FILTER, BIAS = torch.randn(2, 3, 9, 8), torch.randn(5, 3, 3, 2), torch.randn(5)
UP = torch.randn(3, 5, 3, 2)
MEAN, SPREAD = torch.randn(5), torch.rand(5) + 0.5


def _calls(*names: str) -> Callable[[Graph], object]:
    return lambda g: not any(n.op.split(".")[1] in names for n in g.nodes if n.op.startswith("aten."))


def _normed(x: torch.Tensor) -> torch.Tensor:
    y = F.batch_norm(F.conv2d(x, FILTER, BIAS), MEAN, SPREAD, BIAS, MEAN)
    return F.conv2d(y, torch.ones(2, 5, 1, 1))


CASES: dict[str, tuple[Callable[..., Any], list[Any], Callable[[Graph], object]]] = {
    "reverse_scans": (
        _reversed_sum, [torch.randn(3, 7)],
        lambda g: [n.kwargs.get("reverse") for n in g.nodes if "cumsum" in n.op] == [True]),
    "cat_prefixes": (
        _dense, [torch.randn(2, 3, 4)],
        lambda g: max(len(n.args[0]) for n in g.nodes if n.op == "aten.cat.default") == 2),
    "mish": (
        lambda x: torch.tanh(F.softplus(30 * x)) * (30 * x), [X], _calls("tanh", "softplus")),
    "sums_of_products": (
        lambda x, w: (x @ w / 2).sum(1, keepdim=True), [X, W], _calls("mm")),
    "mean_of_convolution": (
        lambda x: F.conv2d(x, FILTER, BIAS, (2, 1), 1).mean((2, 3)), [IMAGE], _calls("convolution")),
    "batch_norm_folding": (_normed, [IMAGE], _calls("native_batch_norm")),
}  # fmt: skip


#: What is only summed, in other forms than those of `CASES`.
SUMMED: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "rows": (lambda x, w: (x @ w).mean(0), [X, W]),
    "all": (lambda x, w, b: torch.addmm(b, x, w).sum(), [X, W, torch.randn(6)]),
    "bias_of_rows": (lambda x, w, b: (torch.addmm(b, x, w) * 3).sum(0), [X, W, torch.randn(6)]),
    "linear_of_three": (
        lambda x, w, b: F.linear(x, w.t(), b).mean(-1),
        [torch.randn(2, 3, 7), W, torch.randn(6)],
    ),
    "dilated": (lambda x: F.conv2d(x, FILTER, None, 1, 2, 2).sum((2, 3), keepdim=True), [IMAGE]),
    "transposed": (lambda x: F.conv_transpose2d(x, UP, BIAS, 2).mean((2, 3)), [IMAGE]),
    "transposed_padded": (lambda x: (F.conv_transpose2d(x, UP, BIAS, 2, 1, 1) * 0.5).mean((2, 3)), [IMAGE]),
    "one_dimension": (lambda x: F.conv1d(x[0], FILTER[..., 0], BIAS).mean(2), [IMAGE[None, :, :, 0]]),
}


@pytest.mark.parametrize("name", SUMMED)
def test_what_is_only_summed_is_not_computed(name: str) -> None:
    function, inputs = SUMMED[name]
    graph = _graph(function, inputs)
    assert _calls("mm", "addmm", "convolution")(graph)
    got = run_program(synthesise(graph, "case").program, inputs, {})
    torch.testing.assert_close(got, function(*inputs), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_infinite_factors_of_a_sum_give_what_they_gave(sign: float) -> None:
    x, w = X.clone(), W.abs() * sign if sign else W.clone()
    x[1, 2], x[3, 4] = math.inf, -math.inf

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x @ w).sum(1)

    program = synthesise(_graph(function, [x, w]), "case").program
    torch.testing.assert_close(run_program(program, [x, w], {}), function(x, w), equal_nan=True)


def test_a_mean_of_a_convolution_with_an_infinite_weight_is_what_it_was() -> None:
    weight = FILTER.clone()
    weight[0, 0, 0, 0] = math.inf

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w, padding=1).mean((2, 3))

    program = synthesise(_graph(function, [IMAGE, weight]), "case").program
    got = run_program(program, [IMAGE, weight], {})
    torch.testing.assert_close(got, function(IMAGE, weight), rtol=2e-5, atol=2e-5, equal_nan=True)


def test_a_product_that_is_also_read_is_kept() -> None:
    graph = _graph(lambda x, w: (x @ w, (x @ w).sum(1)), [X, W])
    assert not _calls("mm")(graph)


@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_applies_unless_it_is_turned_off(name: str) -> None:
    function, inputs, applied = CASES[name]
    assert [applied(_graph(function, inputs)), applied(_graph(function, inputs, [name]))] == [True, False]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("off", [False, True])
def test_a_rewrite_changes_no_result(name: str, off: bool) -> None:
    function, inputs, _ = CASES[name]
    program = synthesise(_graph(function, inputs, [name] if off else []), "case").program
    torch.testing.assert_close(run_program(program, inputs, {}), function(*inputs), rtol=2e-5, atol=2e-5)


def test_a_graph_says_which_rewrites_changed_it() -> None:
    assert "sums_of_products" in _graph(*CASES["sums_of_products"][:2]).rewrites


def test_turning_off_an_unknown_rewrite_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'casts'"):
        _graph(_reversed_sum, [torch.randn(3, 7)], ["cast"])
