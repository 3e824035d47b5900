"""Views, rearrangements, lookups and library calls against eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

_G = torch.Generator().manual_seed(3)
X = torch.randn(5, 7, generator=_G)
Y = torch.randn(5, 7, generator=_G)
V = torch.randn(7, generator=_G)
X4 = torch.randn(2, 6, 3, 5, generator=_G)
Case = tuple[Callable[..., Any], list[Any]]


def ints(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(4))


VIEWS: dict[str, Case] = {
    "permute_reshape": (lambda x: x.permute(2, 0, 3, 1).reshape(6, -1) + 1, [X4]),
    "transposed_output": (lambda x: (x * 2).t(), [X]),
    "transposed_input_output": (lambda x: x.t(), [X]),
    "unchanged_input": (lambda x: x, [X]),
    "slice": (lambda x: x[1:4, ::2] * 2, [X]),
    "slice_from_the_end": (lambda x: x[..., -3:], [X]),
    "select": (lambda x: x[:, 3] + x[2].sum(), [X]),
    "split": (lambda x: [p * 2 for p in x.split(3, 1)], [X]),
    "chunk": (lambda x: x.chunk(2, 1)[1] * x.chunk(2, 1)[0], [X4]),
    "unbind": (lambda x: x.unbind(0), [X]),
    "flip": (lambda x: x.flip(0, 1), [X]),
    "roll": (lambda x: x.roll(2, 1), [X]),
    "roll_flat": (lambda x: x.roll(3), [X]),
    "diagonal": (lambda x: x.diagonal(1), [X]),
    "repeat": (lambda x: x.repeat(2, 3), [X]),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 1), [X]),
    "expand": (lambda x: x.expand(3, 7), [V]),
    "unfold": (lambda x: x.unfold(1, 3, 2).sum(-1), [X]),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3), value=2.0), [X]),
    "pad_negative": (lambda x: F.pad(x, (-1, 2)), [X]),
    "pad_computed": (lambda x: F.pad(F.softmax(x, -1) + 1, (1, 2)), [X]),
    "cat": (lambda x, y: torch.cat([x, y, x * 2], 0), [X, Y]),
    "cat_then": (lambda x, y: torch.cat([x, y[:, :2]], 1) * 2, [X, Y]),
    "cat_softmax": (lambda x, y: F.softmax(torch.cat([x, y.exp()], 1), -1), [X, Y]),
    "stack": (lambda x, y: torch.stack([x, y], 1), [X, Y]),
    "tril": (torch.tril, [X]),
    "triu": (lambda x: torch.triu(x, 1), [X]),
    "arange": (lambda x: x + torch.arange(7), [X]),
    "arange_float": (lambda x: x * torch.arange(0, 3.5, 0.5), [X]),
    "linspace": (lambda x: x * torch.linspace(0, 1, 7), [X]),
    "full": (lambda x: torch.full_like(x, 3) + torch.ones(7) + torch.zeros(5, 1), [X]),
    "eye": (lambda x: x[:, :5] + torch.eye(5), [X]),
    "meshgrid": (lambda x, y: torch.meshgrid(x, y, indexing="ij")[0] + 1, [V, V]),
    "outer": (torch.outer, [V, V]),
    "literal": (lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7]), [X]),
    "strided_input": (lambda x: F.softmax(x * 2, -1), [torch.randn(7, 10).t()[::2]]),
    "offset_input": (lambda x: x.sum(-1), [torch.randn(40)[5:].view(5, 7)]),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), [torch.randn(2, 8, 3, 5)]),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), [X4]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_view(check: Any, name: str) -> None:
    check(*VIEWS[name])


def _in_place(x: torch.Tensor) -> torch.Tensor:
    z = x.clone()
    z[1:3] = 0
    z[:, 0] += 2
    return z.mul_(2).clamp_(min=-1)


def test_mutation_inside_becomes_pure(check: Any) -> None:
    check(_in_place, [X])


def test_a_mutated_argument_does_not_matter_to_the_result(check: Any) -> None:
    check(lambda x: x.mul_(2).sum(-1), [X.clone()])


def test_nested_results_keep_their_structure(check: Any) -> None:
    check(lambda x, y: (x + y, {"m": (x * y).mean(-1), "l": [x, y.t()]}), [X, Y])


SORTED = torch.sort(torch.randn(9, generator=_G))[0]
LOOKUPS: dict[str, Case] = {
    "embedding": (F.embedding, [ints(5, 4, 3), X]),
    "index_select": (lambda x, i: torch.index_select(x, 1, i), [X, torch.tensor([0, 3, 3, 6])]),
    "gather": (lambda x, i: x.gather(1, i), [X, ints(7, 5, 3)]),
    "gather_first": (lambda x, i: x.gather(0, i), [X, ints(5, 3, 7)]),
    "gather_computed": (lambda x, i: F.log_softmax(x, -1).gather(1, i), [X, ints(7, 5, 1)]),
    "take_along_dim": (lambda x, i: torch.take_along_dim(x, i, 1), [X, ints(7, 5, 2)]),
    "index_negative": (lambda x, i: x[i], [X, torch.tensor([0, -1, 3])]),
    "index_columns": (lambda x, i: x[:, i], [X, torch.tensor([[0, -1], [3, 2]])]),
    "index_pairs": (lambda x, i, j: x[i, j], [X, torch.tensor([0, -1, 3]), torch.tensor([1, -2, 6])]),
    "index_apart": (lambda x, i, j: x[i, :, j], [X4, torch.tensor([0, -1]), torch.tensor([1, -2])]),
    "index_broadcast": (
        lambda x, i, j: x[i[:, None], j],
        [X, torch.tensor([0, -1, 3]), torch.tensor([1, -2])],
    ),
    "take": (lambda x, i: x.take(i), [X, torch.tensor([0, -1, 30])]),
    "one_hot": (lambda i: F.one_hot(i, 5), [ints(5, 4, 3)]),
    "searchsorted": (torch.searchsorted, [SORTED, X]),
    "searchsorted_rows": (torch.searchsorted, [torch.sort(X, -1)[0], Y]),
    "searchsorted_right": (lambda s, x: torch.searchsorted(s, x, right=True), [SORTED, SORTED[::2]]),
    "searchsorted_computed": (lambda s, x: torch.searchsorted(torch.cumsum(s, -1), x), [X.abs(), Y]),
    "bucketize_int32": (lambda s, x: torch.bucketize(x, s, out_int32=True), [SORTED, X]),
    "bucketize_row": (lambda s, x: torch.bucketize(x[:, 1], s[2]), [torch.sort(X, -1)[0], Y]),
    "searchsorted_int": (torch.searchsorted, [torch.tensor([1, 4, 9]), ints(12, 3, 4)]),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookup(check: Any, name: str) -> None:
    check(*LOOKUPS[name])


def _linear(n: int, k: int) -> list[torch.Tensor]:
    return [torch.randn(n, k), torch.randn(n)]


ROWS = ints(7, 5, 7)
SCATTERED: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "scatter": (lambda x: x.scatter(1, torch.tensor([[3], [0], [6], [1], [2]]), 9.0), [X]),
    "scatter_transposed": (lambda x: x.t().scatter(0, torch.tensor([[3, 0, 6, 1, 2]]), 9.0).t(), [X]),
    "scatter_add": (lambda x, i: torch.zeros(5, 7).scatter_add(1, i, x), [X, ROWS]),
    "scatter_add_half": (lambda x, i: torch.zeros(5, 7).half().scatter_add(1, i, x), [X.half(), ROWS]),
    "scatter_max": (lambda x, i: x.scatter_reduce(1, i, x * 2, "amax"), [X, ROWS]),
    "scatter_mean": (lambda x, i: x.scatter_reduce(1, i, x * 2, "mean"), [X, ROWS]),
    "index_add": (lambda x: torch.zeros(3, 7).index_add(0, torch.tensor([0, 2, 0, 1, 2]), x, alpha=2), [X]),
    "index_put": (lambda x: torch.index_put(x * 2, (torch.tensor([0, -1]),), torch.tensor(0.0)), [X]),
    "index_put_add": (
        lambda x, y: x.index_put((torch.tensor([0, 1, 0]), torch.tensor([2, 2, 2])), y[0, :3], True), [X, Y]),
    "index_put_mask": (lambda x: x.index_put((x[:, 0] > 0,), torch.tensor(1.0)), [X]),
    "index_copy": (lambda x, y: x.index_copy(0, torch.tensor([4, 0]), y[:2]).exp(), [X, Y]),
    "twice": (lambda x, i: (x * 0).scatter_add(1, i, x).scatter(1, i[:, :1], 1.0).sum(1), [X, ROWS]),
    "sorted": (lambda x: x.sort(-1)[0] * 2, [X]),
    "sorted_stably": (lambda x: torch.sort(x.round(), dim=0, descending=True, stable=True), [X]),
    "sorted_nan": (lambda x: (x - 0.5).log().sort(0)[0], [X]),
    "largest": (lambda x: x.topk(3, -1)[0].sum(), [X]),
    "second": (lambda x: x.kthvalue(2, 0)[0], [X]),
}  # fmt: skip


@pytest.mark.parametrize("name", SCATTERED)
def test_what_data_places_is_stored_there(check: Any, name: str) -> None:
    function, inputs = SCATTERED[name]
    program = check(function, inputs)
    assert [s for s in program.steps if hasattr(s, "operands")] == []


CALLS: dict[str, tuple[Callable[..., Any], list[Any], list[str]]] = {
    "mm": (lambda x, y: x @ y.t(), [X, Y], ["aten::mm"]),
    "mm_softmax": (lambda x, y: F.softmax(x @ y.t(), -1), [X, Y], ["aten::mm"]),
    "linear": (F.linear, [X, *_linear(4, 7)], ["aten::mm"]),
    "linear_3d": (
        lambda x, w, b: F.gelu(F.linear(x, w, b)), [torch.randn(2, 3, 7), *_linear(4, 7)], ["aten::mm"],
    ),
    "linear_half": (lambda x, w: F.relu(F.linear(x, w)), [X.half(), torch.randn(4, 7).half()], ["aten::mm"]),
    "bmm": (lambda x: torch.relu(x @ x.transpose(-1, -2)), [X4], ["aten::bmm"]),
    "attention": (lambda q: F.softmax(q @ q.transpose(-1, -2) / 2.6, -1) @ q, [X4], ["aten::bmm"] * 2),
    "computed_operand": (lambda x, y: torch.exp(x) @ (y * 2).t(), [X, Y], ["aten::mm"]),
    "conv2d": (
        lambda x, w: F.relu(F.conv2d(x, w, padding=1)), [X4, torch.randn(4, 6, 3, 3)], ["aten::convolution"],
    ),
    "sort": (lambda x: tuple(x.sort(-1)), [X], ["aten::sort"]),
    "topk": (lambda x: tuple(x.topk(3, -1)), [X], ["aten::topk"]),
    "vector_products": (lambda x, v: x.mv(v) + v.dot(v), [X, V], []),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_library_call_is_right_and_reported(check: Any, name: str) -> None:
    function, inputs, expected = CALLS[name]
    program = check(function, inputs)
    assert [s.op for s in program.steps if hasattr(s, "operands")] == expected


def test_a_pointwise_consumer_is_the_epilogue_of_a_product(check: Any) -> None:
    program = check(lambda x, w, b: F.gelu(F.linear(x, w, b)), [X, *_linear(4, 7)])
    (call,) = program.steps
    assert [a.extent for a in call.epilogue.axes] == [5, 4]


def test_a_row_reduction_of_a_product_is_its_epilogue(check: Any) -> None:
    (call,) = check(lambda x, y: F.softmax(x @ y.t(), -1), [X, Y]).steps
    assert call.epilogue.anchor == "normalization"


def test_a_module_lists_its_whole_state(check: Any) -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(7, 4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.shift = torch.ones(4)  # neither parameter nor buffer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.linear(x) + self.shift)

    module = Block().eval()
    program = check(module, [X])
    assert {b.source for b in program.params()} == set(module.state_dict())
    assert [b.data for b in program.buffers.values() if b.role == "constant"] == [(1.0, 1.0, 1.0, 1.0)]


def test_an_opaque_operator_sees_the_strides_the_reference_gave_it(check: Any) -> None:
    check(torch.nn.LSTM(8, 6, batch_first=True).eval().requires_grad_(False), [torch.randn(2, 7, 8)])


def test_names_of_steps_are_unique(check: Any) -> None:
    program = check(lambda x: torch.relu((x @ x.mT).exp() @ x) @ x.mT, [X4])
    assert len({s.name for s in program.steps}) == len(program.steps)
