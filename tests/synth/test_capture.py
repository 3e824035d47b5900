"""Capture: errors that name the operator and the line, rewrites that can be turned off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from kevolve_core.errors import CaptureError
from kevolve_core.spec import load_spec
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.reference import graph_of
from kevolve_core.synth.simplify import simplified

HERE = Path(__file__).name


def _branches(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        return x
    return x * 2


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "branch": (_branches, "_local_scalar_dense"),
    "mask": (lambda x: x[x > 0], "nonzero"),
    "item": (lambda x: x * x.sum().item(), "_local_scalar_dense"),
    "array": (lambda x: torch.from_numpy(x.numpy() + 1), "Tensor.numpy"),
    "array_by_its_protocol": (lambda x: x * float(numpy.asarray(x).sum()), "Tensor.__array__"),
    "list": (lambda x: x * x.tolist()[0], "Tensor.tolist"),
    "cond": (lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), "cond"),
    "complex": (lambda x: torch.fft.fft(x), "complex64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_names_operator_and_line(name: str) -> None:
    function, operator = REFUSED[name]
    with pytest.raises(CaptureError) as caught:
        capture(function, [torch.randn(3)])
    assert operator in str(caught.value.got)
    assert HERE in str(caught.value.where)


def test_a_result_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(CaptureError, match="tensors only"):
        capture(lambda x: (x, 3), [torch.randn(3)])


def test_an_unknown_random_operator_is_refused_with_its_line(lower: Any) -> None:
    with pytest.raises(Exception, match=HERE):
        lower(lambda x: x + torch.rand_like(x), [torch.randn(3)])


def test_nodes_carry_the_users_line() -> None:
    graph = capture(lambda x: torch.exp(x), [torch.randn(3)])
    assert [HERE in n.line for n in graph.nodes if n.op == "aten.exp.default"] == [True]


def test_input_strides_are_kept() -> None:
    graph = capture(lambda x: x + 1, [torch.randn(5, 3).t()])
    assert graph.node("x0").tensor.strides == (1, 3)


@pytest.mark.parametrize("name", ["identities", "casts", "common_subexpressions", "dead_code"])
def test_a_rewrite_can_be_turned_off(name: str) -> None:
    def redundant(x: torch.Tensor) -> torch.Tensor:
        unused = torch.sin(x)
        del unused
        return torch.exp(x).float().half() + torch.exp(x).clone()

    graph = capture(redundant, [torch.randn(3).half()], keep=TABLE)
    assert len(simplified(graph, without=[name]).nodes) > len(simplified(graph).nodes)


def test_a_widened_and_narrowed_value_is_the_value_itself() -> None:
    graph = simplified(capture(lambda x: x.float().half() * 2, [torch.randn(3).half()]))
    assert [n.op for n in graph.nodes] == ["input", "aten.mul.Tensor"]


def test_a_narrowed_value_stays_narrowed() -> None:
    graph = simplified(capture(lambda x: x.half().float() * 2, [torch.randn(3)]))
    assert sum("_to_copy" in n.op for n in graph.nodes) == 2


def test_random_draws_of_a_reference_are_inputs_after_the_declared_ones(tmp_path: Path) -> None:
    path = tmp_path / "noisy.yaml"
    path.write_text(
        "kevolve: 1\nname: noisy\nreference:\n  python: |\n    import torch\n\n    def noisy(x):\n"
        "        return x + torch.rand_like(x)\ninputs:\n  x: {shape: [5]}\ncases:\n  - {name: a}\n"
    )
    spec = load_spec(path)
    graph = graph_of(spec, spec.cases[0])
    assert [n.source for n in graph.nodes if n.op == "input"] == ["0", "1"]


class _Remembers(torch.nn.Module):
    """Keeps its last state in an attribute that is no buffer, and overwrites it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.randn(300, 300)
        self.scale = torch.tensor(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state.copy_(x)
        self.state = self.state * self.scale
        return self.state + 1


def test_a_plain_tensor_that_is_overwritten_does_not_matter(check: Any) -> None:
    module = _Remembers()
    kept = module.state
    x = torch.randn(300, 300)
    want = x * 3 + 1
    program = check(_Remembers(), [x])
    assert [b for b in program.buffers.values() if b.role == "constant" and b.size > 1] == []
    graph = capture(module, [x])
    assert module.state is kept
    assert len(graph.outputs) == 1
    torch.testing.assert_close(module(x), want)


class _Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(7, 5)
        self.out = torch.nn.Linear(5, 7)
        self.out.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.words(x))


def test_a_shared_parameter_has_all_names_that_the_state_dict_gives_it(check: Any) -> None:
    module = _Tied()
    program = check(module, [torch.tensor([[1, 2], [3, 6]])])
    assert {b.source for b in program.params()} == set(module.state_dict())
