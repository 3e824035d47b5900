"""Large weights are left undrawn where only types count, and drawn where a value does."""

from __future__ import annotations

import pytest
import torch

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.spec import parse_spec
from kevolve_core.spec.runtime import load_reference
from kevolve_core.spec.undrawn import Undrawn
from kevolve_core.synth.reference import graph_of

LAYERS = """
import torch


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Linear(2048, 1024)
        self.scale = torch.nn.Parameter(torch.randn(1024, 1024) * 0.5)
        {made}

    def forward(self, x):
        return self.wide(x) @ self.scale {use}
"""
#: Python values made from weights, or drawn after them.
VALUES = {
    "item": "float(torch.rand(1))",
    "extremum": "float(self.wide.weight.detach().abs().max())",
    "list": "torch.rand(2).tolist()[0]",
    "array": "float(self.wide.bias.detach().numpy().max())",
    "number_of_some": "float(len(torch.nonzero(self.wide.bias.detach() > 0)))",
    "truth": "float(bool(torch.rand(()) > 2) or bool(torch.rand(()) < 2))",
}


def spec_of(made: str = "pass", use: str = "") -> KernelSpec:
    reference = {"python": LAYERS.format(made=made, use=use)}
    return parse_spec({"kevolve": 1, "name": "case", "reference": reference, "inputs": {"x": [2, 2048]}})


def test_large_weights_are_left_undrawn_where_only_types_count() -> None:
    spec = spec_of()
    found = load_reference(spec, spec.cases[0], 0, undrawn=True)
    assert not found.drawn
    assert found.module is not None
    assert found.module.wide.weight.shape == (1024, 2048)
    assert load_reference(spec, spec.cases[0], 0).drawn


def test_a_constant_of_the_reference_is_what_its_seed_draws() -> None:
    spec = spec_of("self.own = torch.randn(2)", "+ self.own.sum()")
    drawn = load_reference(spec, spec.cases[0], 0)
    assert drawn.module is not None
    (constant,) = (n.data for n in graph_of(spec, spec.cases[0]).nodes if n.op == "constant")
    assert constant == tuple(drawn.module.own.tolist())


@pytest.mark.parametrize("name", VALUES)
def test_a_number_of_the_reference_is_what_its_seed_draws(name: str) -> None:
    spec = spec_of(f"self.own = {VALUES[name]}", "* self.own")
    drawn = load_reference(spec, spec.cases[0], 0)
    assert drawn.module is not None
    (last,) = (n for n in graph_of(spec, spec.cases[0]).nodes if n.op == "aten.mul.Tensor")
    assert last.args[1] == drawn.module.own


def test_an_error_that_the_constructor_takes_is_no_value() -> None:
    tried = "try: self.own = float(self.wide.bias.detach().max())\n        except Exception: self.own = 5.0"
    spec = spec_of(tried)
    assert load_reference(spec, spec.cases[0], 0, undrawn=True).drawn


def test_weights_that_are_drawn_until_they_please_are_drawn() -> None:
    made = "self.own = torch.nn.init.trunc_normal_(torch.empty(1024, 1024), 1.0, 0.02, 0.9, 1.1)"
    spec = spec_of(made)
    assert load_reference(spec, spec.cases[0], 0, undrawn=True).drawn


@pytest.mark.parametrize(
    ("method", "shape"), [("t_", (1024, 1025)), ("squeeze_", (1, 1024, 1025)), ("detach_", (1024, 1025))]
)
def test_a_view_in_place_of_undrawn_weights_is_made(method: str, shape: tuple[int, ...]) -> None:
    with Undrawn() as mode:
        made = getattr(torch.randn(shape), method)()
    want = getattr(torch.empty(shape), method)()
    assert mode.skipped
    assert (made.shape, made.stride()) == (want.shape, want.stride())


def test_what_is_written_over_undrawn_weights_is_not() -> None:
    with Undrawn() as mode:
        made = torch.zeros(1024, 1024).uniform_().add_(1)
    assert mode.skipped
    assert float(made.sum()) == 0
