"""Compulsory work."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from kevolve_core.synth.work import program_work, step_work


def test_an_input_read_by_several_nests_counts_once(lower: Any) -> None:
    program = lower(F.mse_loss, [torch.randn(300, 500), torch.randn(300, 500)]).program
    assert program_work(program).bytes == 4 * (2 * 150000 + 1)


def test_a_gather_counts_the_elements_it_can_touch(lower: Any) -> None:
    program = lower(F.embedding, [torch.zeros(6, dtype=torch.int64), torch.randn(1000, 8)]).program
    assert program_work(program).bytes == 6 * 8 + 6 * 8 * 4 + 6 * 8 * 4


def test_a_gather_counts_no_more_than_the_table(lower: Any) -> None:
    program = lower(F.embedding, [torch.zeros(600, dtype=torch.int64), torch.randn(10, 8)]).program
    assert program_work(program).bytes == 600 * 8 + 10 * 8 * 4 + 600 * 8 * 4


def test_a_sliced_input_counts_what_is_read(lower: Any) -> None:
    program = lower(lambda x: x[:, :2] * 2, [torch.randn(10, 100)]).program
    assert program_work(program).bytes == 4 * (20 + 20)


def test_flops_of_a_row_sum(lower: Any) -> None:
    program = lower(lambda x: (x * x).sum(-1), [torch.randn(10, 100)]).program
    assert program_work(program).flops == 2 * 1000


def test_what_passes_to_an_epilogue_is_not_the_steps_traffic(lower: Any) -> None:
    program = lower(lambda x, w: torch.relu(x @ w), [torch.randn(5, 7), torch.randn(7, 3)]).program
    (call,) = program.steps
    assert step_work(call, program.buffers).bytes == 4 * (35 + 21 + 15)
