"""Specifications made from live functions."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import Distribution
from kevolve_core.spec import dump_spec, load_spec
from kevolve_core.spec.from_function import init_spec, spec_from_function
from kevolve_core.spec.runtime import draw_inputs, load_reference, validate_runs

SCALE = 0.5
HALF = torch.float16
LIVE = torch.ones(3)


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * SCALE


def silu_scaled(x: torch.Tensor, n: int) -> torch.Tensor:
    return F.silu(helper(x)).to(HALF).float() * math.sqrt(n)


def uses_a_tensor(x: torch.Tensor) -> torch.Tensor:
    return x * LIVE


class Block(torch.nn.Module):
    def __init__(self, width: int, *, bias: bool = True) -> None:
        super().__init__()
        self.width = width
        self.linear = torch.nn.Linear(width, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return helper(self.linear(x))


def answer(spec: Any, *inputs: Any) -> Any:
    return load_reference(spec, spec.cases[0], 0).call(*inputs)


def test_a_function_carries_what_it_uses() -> None:
    x = torch.randn(4, 8)
    spec = spec_from_function(silu_scaled, (x, 9))
    assert torch.equal(answer(spec, x, 9), silu_scaled(x, 9))
    assert [(s.name, s.shape, s.value) for s in spec.cases[0].inputs] == [("x", (4, 8), None), ("n", None, 9)]
    assert "SCALE = 0.5" in spec.reference.source


def test_its_yaml_stands_alone(tmp_path: Path) -> None:
    spec = spec_from_function(silu_scaled, (torch.randn(4, 8), 9))
    path = tmp_path / "s.yaml"
    path.write_text(dump_spec(spec))
    again = load_spec(path)
    validate_runs(again)
    assert again.fingerprint == spec.fingerprint


x = torch.ones(3)  # a script's data, called as the parameters of its functions are
scale = [x]


def shadowing(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    scale = y.mean()
    return torch.stack([x * scale for x in (x, y)])


def test_parameters_and_local_variables_are_not_the_globals_of_their_names() -> None:
    reference = spec_from_function(shadowing, (torch.ones(3), torch.ones(3))).reference
    assert reference.symbol == "shadowing"
    assert "ones(3)" not in reference.source


def test_captured_numbers_become_constants() -> None:
    factor = 3

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    x = torch.randn(4)
    assert torch.equal(answer(spec_from_function(scaled, (x,)), x), x * 3)


def test_captured_tensors_are_refused() -> None:
    weight = torch.randn(4)

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x * weight

    with pytest.raises(SpecError, match="it uses 'weight', a Tensor"):
        spec_from_function(scaled, (torch.randn(4),))


def test_an_assigned_lambda_is_taken() -> None:
    double = lambda x: x + x  # noqa: E731
    x = torch.randn(4)
    spec = spec_from_function(double, (x,), name="double")
    assert torch.equal(answer(spec, x), x + x)


def test_a_lambda_inside_of_an_expression_is_refused() -> None:
    with pytest.raises(SpecError, match="a lambda inside of a larger expression"):
        spec_from_function([lambda x: x][0], (torch.randn(4),))


def test_a_built_in_function_is_imported() -> None:
    x = torch.randn(4)
    spec = spec_from_function(F.gelu, (x,))
    assert torch.equal(answer(spec, x), F.gelu(x))


def test_a_module_class_takes_its_arguments() -> None:
    spec = spec_from_function(Block, (torch.randn(4, 8),), init={"width": 8, "bias": False})
    module = load_reference(spec, spec.cases[0], 0).module
    assert module is not None
    assert [tuple(p.shape) for p in module.parameters()] == [(8, 8)]


def test_a_module_instance_gives_its_arguments_back() -> None:
    spec = spec_from_function(torch.nn.Linear(8, 3, bias=False), (torch.randn(4, 8),))
    assert dict(spec.reference.init) == {"in_features": 8, "out_features": 3, "bias": False}
    validate_runs(spec)


def test_an_instance_that_hides_its_arguments_is_refused() -> None:
    with pytest.raises(SpecError, match="other weights") as caught:
        spec_from_function(Block(8, bias=False), (torch.randn(4, 8),))
    assert "init={" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.randn(64), Distribution()),
        (torch.tensor([3, 1, 7, 1]), Distribution("integers", 1, 8)),
        (torch.tensor([1, 3, 3, 7]), Distribution("sorted", 1, 8)),
        (torch.tensor([1, 3, 4, 7]), Distribution("unique_sorted", 1, 8)),
        (torch.tensor([0, 2, 2, 6]), Distribution("offsets", None, 6)),
        (torch.tensor([2, 0, 1, 3]), Distribution("permutation")),
        (torch.tensor([True, False]), Distribution("bernoulli")),
    ],
    ids=["normal", "integers", "sorted", "unique", "offsets", "permutation", "bernoulli"],
)
def test_examples_give_their_distribution(value: torch.Tensor, expected: Distribution) -> None:
    spec = spec_from_function(lambda_free, (value, torch.randn(6, 2)))
    assert spec.cases[0].inputs[0].distribution == expected


def lambda_free(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.sum() + b


def test_floats_that_are_never_negative_stay_so() -> None:
    spec = spec_from_function(lambda_free, (torch.rand(64), torch.randn(2)))
    assert float(draw_inputs(spec, spec.cases[0], 3)[0].min()) >= 0


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.randn(3), "tuple of the positional arguments"),
        ((torch.randn(3),), "do not fit the arguments"),
        ((torch.randn(3), object()), "a tensor or a Python scalar"),
        ((torch.randn(3), torch.randn(3, dtype=torch.complex64)), "unsupported dtype"),
    ],
)
def test_bad_examples_are_refused(inputs: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_from_function(lambda_free, inputs)


MODULE = """
import torch
def scale(x, k):
    return x * k
def example_inputs():
    return torch.randn(3, 5), 2.0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_spec_ops.py").write_text(MODULE)
    (tmp_path / "my_spec_bare.py").write_text("def f(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "my_spec_ops"


def test_init_writes_a_specification_that_loads_and_runs(module: str, tmp_path: Path) -> None:
    (tmp_path / "scale.yaml").write_text(init_spec(f"{module}:scale"))
    spec = load_spec("scale.yaml")
    validate_runs(spec)
    assert [(s.name, s.shape, s.value) for s in spec.cases[0].inputs] == [
        ("x", (3, 5), None),
        ("k", None, 2.0),
    ]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("my_spec_ops", "module:function"),
        ("my_spec_nowhere:f", "does not import"),
        ("my_spec_ops:scael", "did you mean 'scale'"),
        ("my_spec_bare:f", r"define example_inputs\(\)"),
    ],
)
@pytest.mark.usefixtures("module")
def test_init_says_what_is_missing(target: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        init_spec(target)
