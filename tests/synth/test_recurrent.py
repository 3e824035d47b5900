"""Recurrent layers: one product and one nest a layer, repeated over the sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kevolve_core.ir import LibraryCall

CELLS = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}


class _WithState(torch.nn.Module):
    def __init__(self, cell: torch.nn.Module, lstm: bool) -> None:
        super().__init__()
        self.cell = cell
        self.lstm = lstm

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
        return self.cell(x, (h, c) if self.lstm else h)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"bias": False, "batch_first": True}]
)
def test_recurrent_layer(check: Callable[..., Any], name: str, options: dict[str, Any]) -> None:
    cell = CELLS[name](5, 4, **options)
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h, c = torch.randn(layers, 3, 4), torch.randn(layers, 3, 4)
    x = torch.randn((3, 6, 5) if options.get("batch_first") else (6, 3, 5))
    with torch.no_grad():
        program = check(_WithState(cell, name == "LSTM").requires_grad_(False), [x, h, c])
    repeated = [s.repeat for s in program.steps if isinstance(s, LibraryCall) and s.repeat]
    assert [6] * layers == repeated


def test_relu_cells(check: Callable[..., Any]) -> None:
    cell = torch.nn.RNN(5, 4, nonlinearity="relu").requires_grad_(False)
    check(_WithState(cell, lstm=False), [torch.randn(6, 3, 5), torch.randn(1, 3, 4), torch.zeros(1)])


def test_a_long_sequence_has_as_many_steps_as_a_short_one(lower: Callable[..., Any]) -> None:
    cell = torch.nn.LSTM(5, 4, num_layers=3).requires_grad_(False)
    counts = [len(lower(cell, [torch.randn(n, 2, 5)]).program.steps) for n in (4, 512)]
    assert counts[0] == counts[1]
