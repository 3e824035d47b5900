"""Named rewrites: what each finds, and that results stay what they were with and without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

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


CASES: dict[str, tuple[Callable[..., Any], list[Any], Callable[[Graph], object]]] = {
    "reverse_scans": (
        _reversed_sum, [torch.randn(3, 7)],
        lambda g: [n.kwargs.get("reverse") for n in g.nodes if "cumsum" in n.op] == [True]),
    "cat_prefixes": (
        _dense, [torch.randn(2, 3, 4)],
        lambda g: max(len(n.args[0]) for n in g.nodes if n.op == "aten.cat.default") == 2),
}  # fmt: skip


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
