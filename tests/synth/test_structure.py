"""What is fused with what, and how loops come out."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.ir import LibraryCall, LoopNest, Search
from kevolve_core.spec import load_spec
from kevolve_core.spec.runtime import draw_inputs, load_reference
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.reference import graph_of

EXAMPLES = Path(__file__).parents[2] / "examples"
#: example -> (nests, library calls), epilogues not counted as nests.
EXPECTED = {
    "rmsnorm": (1, 0),
    "softmax": (1, 0),
    "cross_entropy": (2, 0),
    "group_norm_silu": (1, 0),
    "linear_gelu": (0, 1),
    "map_id": (1, 0),
    "bucketize_merge": (1, 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_has_the_expected_steps_and_result(name: str) -> None:
    spec = load_spec(EXAMPLES / f"{name}.yaml")
    case = spec.case("ragged")
    program = synthesise(graph_of(spec, case), case.name).program
    nests = sum(isinstance(s, LoopNest) for s in program.steps)
    assert (nests, len(program.steps) - nests) == EXPECTED[name]
    inputs, reference = draw_inputs(spec, case, 1), load_reference(spec, case, 1)
    state = reference.module.state_dict() if reference.module is not None else {}
    torch.testing.assert_close(run_program(program, inputs, state), reference.call(*inputs))


def test_steps_have_the_same_names_on_every_case() -> None:
    spec = load_spec(EXAMPLES / "cross_entropy.yaml")
    names = {tuple(s.name for s in synthesise(graph_of(spec, c), c.name).program.steps) for c in spec.cases}
    assert len(names) == 1


def test_group_normalisation_and_its_consumer_share_loops(check: Any) -> None:
    x, w = torch.randn(2, 8, 3, 5), torch.randn(8)
    (nest,) = check(lambda x, w: F.silu(F.group_norm(x, 4, w)), [x, w]).steps
    assert [(a.extent) for a in nest.axes] == [2, 4, 2, 15]
    assert nest.outer == 2


def test_group_normalisation_written_by_hand_is_one_nest(check: Any) -> None:
    def by_hand(x: torch.Tensor) -> torch.Tensor:
        g = x.view(2, 4, -1)
        centered = g - g.mean(-1, keepdim=True)
        return (centered / torch.sqrt(g.var(-1, keepdim=True, unbiased=False) + 1e-5)).view(2, 8, 3, 5)

    assert len(check(by_hand, [torch.randn(2, 8, 3, 5)]).steps) == 1


def test_a_residual_sum_that_is_also_returned_shares_the_norms_nest(check: Any) -> None:
    def residual(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s = x + y
        return s, s * torch.rsqrt(s.pow(2).mean(-1, keepdim=True) + 1e-6)

    (nest,) = check(residual, [torch.randn(5, 7), torch.randn(5, 7)]).steps
    assert len(nest.writes()) == 2


def test_results_that_walk_the_same_input_share_a_nest(check: Any) -> None:
    assert len(check(lambda x: (x.sum(-1), x.amax(-1), x * 2), [torch.randn(5, 7)]).steps) == 1


def test_a_column_reduction_iterates_over_columns(check: Any) -> None:
    (nest,) = check(lambda x: x.sum(0), [torch.randn(5, 7)]).steps
    assert [(a.extent) for a in nest.axes] == [7, 5]
    assert nest.outer == 1


def test_a_loss_over_row_statistics_is_a_part_a_row_and_their_sum(check: Any) -> None:
    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction="batchmean")

    rows, total = check(loss, [torch.randn(5, 7), torch.randn(5, 7)]).steps
    assert (rows.outer, rows.axes[0].extent, total.outer) == (1, 5, 0)


def test_few_rows_leave_a_large_consumer_its_own_tasks(check: Any) -> None:
    program = check(lambda x: x / x.norm(), [torch.randn(300, 500)])
    last = program.steps[-1]
    assert (last.outer, [a.extent for a in last.axes]) == (1, [150000])


def test_a_position_known_to_be_inside_is_not_wrapped(check: Any) -> None:
    def look(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return table[torch.searchsorted(table, ids).clamp(max=table.shape[0] - 1)]

    (nest,) = check(look, [torch.arange(9), torch.randint(0, 12, (20,))]).steps
    assert not any(
        e.name == "where" for s in nest.body for e in [getattr(s, "value", None)] if hasattr(e, "name")
    )
    assert sum(isinstance(s, Search) for s in nest.body) == 1


def _kl(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction="sum")


def _block(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    h = F.gelu(x @ y.t())
    return F.layer_norm(h, (5,)) + h, h.sum(0)


def _norms(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    s = F.softmax(x, -1) * F.silu(y)
    return s / s.norm(dim=-1, keepdim=True) + s.cumsum(0)


@pytest.mark.parametrize("function", [_kl, _block, _norms])
def test_every_partition_computes_the_same(lower: Any, check: Any, function: Callable[..., Any]) -> None:
    inputs = [torch.randn(5, 7), torch.randn(5, 7)]
    default = lower(function, inputs)
    rng = random.Random(0)
    for _ in range(8):
        partition = Partition(
            frozenset(e for e in default.edges if rng.random() < 0.5),
            frozenset(n for n in default.shared if rng.random() < 0.5),
            rng.random() < 0.5,
        )
        check(function, inputs, partition)


def test_a_cut_edge_gives_two_nests(lower: Any) -> None:
    inputs = [torch.randn(5, 7)]
    default = lower(lambda x: F.softmax(x, -1), inputs)
    cut = lower(lambda x: F.softmax(x, -1), inputs, Partition(frozenset(default.edges[-1:])))
    assert (len(default.program.steps), len(cut.program.steps)) == (1, 2)


def test_without_epilogues_the_nest_follows_the_call(lower: Any) -> None:
    inputs = [torch.randn(5, 7), torch.randn(4, 7)]
    program = lower(lambda x, w: torch.relu(x @ w.t()), inputs, Partition(epilogues=False)).program
    assert [type(s) for s in program.steps] == [LibraryCall, LoopNest]
