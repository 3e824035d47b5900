"""References that run, and the data they run on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kevolve_core.errors import SpecError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.spec import parse_spec
from kevolve_core.spec.runtime import (
    draw_inputs,
    example_inputs,
    in_float64,
    layouts,
    load_reference,
    validate_runs,
    variants,
)

LINEAR = """
import torch
class Model(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.linear = torch.nn.Linear(n, n)
        self.drop = torch.nn.Dropout(0.25)
    def forward(self, x):
        return self.drop(self.linear(x))
"""


def spec_of(python: str, inputs: dict[str, Any] | None = None, **more: Any) -> KernelSpec:
    init = more.pop("init", None)
    reference = {"python": python, **({"init": init} if init else {})}
    body = {"kevolve": 1, "name": "case", "reference": reference, **more}
    return parse_spec({**body, **({"inputs": inputs} if inputs else {})})


def test_weights_come_from_the_seed() -> None:
    spec = spec_of(LINEAR, {"x": [3, 8]}, init={"n": 8})
    modules = [load_reference(spec, spec.cases[0], s).module for s in (1, 1, 2)]
    weights = [m.linear.weight for m in modules if m is not None]
    assert [torch.equal(weights[0], w) for w in weights] == [True, True, False]


def test_the_process_generators_are_left_alone() -> None:
    spec = spec_of(LINEAR, {"x": [3, 8]}, init={"n": 8}, mode="train")
    before = torch.random.get_rng_state()
    load_reference(spec, spec.cases[0], 3)
    draw_inputs(spec, spec.cases[0], 4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_inputs_are_a_pure_function_of_their_arguments() -> None:
    spec = spec_of("def f(x, y): return x + y", {"x": [5, 7], "y": [5, 7]})
    case = spec.cases[0]
    first, again, other = (draw_inputs(spec, case, s) for s in (9, 9, 10))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "offset"])
def test_a_layout_changes_strides_and_not_values(layout: str) -> None:
    names = ["contiguous", "transposed", "strided", "offset"]
    spec = spec_of("def f(x): return x", {"x": {"shape": [5, 7], "layouts": names}})
    case = spec.cases[0]
    plain, x = draw_inputs(spec, case, 1)[0], draw_inputs(spec, case, 1, layout=layout)[0]
    expected = {
        "contiguous": ((7, 1), 0),
        "transposed": ((1, 5), 0),
        "strided": ((14, 2), 0),
        "offset": ((7, 1), 1),
    }
    assert torch.equal(plain, x)
    assert (x.stride(), x.storage_offset()) == expected[layout]
    assert layouts(spec, case) == tuple(names)


def test_only_inputs_that_allow_a_layout_take_it() -> None:
    spec = spec_of(
        "def f(x, y): return x + y",
        {"x": {"shape": [4, 4], "layouts": ["contiguous", "transposed"]}, "y": [4, 4]},
    )
    x, y = draw_inputs(spec, spec.cases[0], 1, layout="transposed")
    assert (x.is_contiguous(), y.is_contiguous()) == (False, True)


def test_scalars_are_passed_as_they_are() -> None:
    spec = spec_of("def f(x, eps, n): return x + eps", {"x": [4], "eps": {"value": 1e-6}, "n": {"value": 3}})
    assert draw_inputs(spec, spec.cases[0], 1)[1:] == (1e-6, 3)


def test_all_families_of_data_apply_to_plain_floats() -> None:
    spec = spec_of("import torch\ndef f(x): return torch.relu(x)", {"x": [8, 64]})
    assert variants(spec, spec.cases[0]) == ("base", "large", "sparse", "structured", "special")


def test_families_are_what_they_say() -> None:
    spec = spec_of("import torch\ndef f(x): return torch.relu(x)", {"x": [64, 256]})
    case = spec.cases[0]
    drawn = {v: draw_inputs(spec, case, 5, v)[0] for v in variants(spec, case)}
    scales = drawn["structured"].abs().mean(1)
    assert float(drawn["large"].std()) > 100
    assert float((drawn["sparse"] == 0).float().mean()) > 0.9
    assert float(scales.max() / scales.min()) > 1000
    assert [bool(f(drawn["special"]).any()) for f in (torch.isnan, torch.isposinf, torch.isneginf)] == [
        True
    ] * 3
    assert [v for v in drawn if v != "special" and not bool(drawn[v].isfinite().all())] == []


def test_special_values_stay_away_where_they_are_forbidden() -> None:
    spec = spec_of("def f(x, y): return x + y", {"x": [8, 8], "y": {"shape": [8, 8], "special": False}})
    assert "special" not in variants(spec, spec.cases[0])


def test_a_family_that_the_reference_refuses_is_left_out() -> None:
    python = """
import torch
def f(x):
    if not torch.isfinite(x).all():
        raise ValueError("finite values only")
    return x.abs().sqrt() / x.abs().mean()
"""
    spec = spec_of(python, {"x": [8, 64]})
    assert variants(spec, spec.cases[0]) == ("base", "large", "sparse", "structured")


def test_a_family_that_overflows_to_nan_is_left_out() -> None:
    python = "def f(x): return x.exp() - x.exp()"
    spec = spec_of(python, {"x": [8, 64]})
    assert [v for v in ("large", "structured") if v in variants(spec, spec.cases[0])] == []


def test_a_case_of_constants_has_only_its_base() -> None:
    spec = spec_of(
        "def f(x): return x", {"x": {"shape": [4], "distribution": {"kind": "constant", "low": 2}}}
    )
    assert variants(spec, spec.cases[0]) == ("base",)


RANDOM = """
import torch
import torch.nn.functional as F
def f(x, p):
    a = torch.randn(x.shape[0], 3) + torch.rand_like(x[:, :3])
    b = torch.randint(0, 9, (4,)).float().sum() + torch.randperm(5)[0]
    c = F.dropout(x, 0.25, training=True)
    d = torch.bernoulli(p) + torch.empty(7).uniform_(-1, 3) + torch.normal(p, 0.5)
    e = torch.zeros(7).exponential_() + torch.nn.init.normal_(torch.empty(7), 1.0, 2.0)
    return a, b, c, d, e
"""


def random_spec() -> KernelSpec:
    p = {"shape": [7], "distribution": {"kind": "uniform", "low": 0, "high": 1}}
    return spec_of(RANDOM, {"x": [6, 8], "p": p})


def test_random_factories_become_inputs() -> None:
    spec = random_spec()
    found = load_reference(spec, spec.cases[0], 0).random_inputs
    kinds = [(s.distribution.kind, s.shape, s.dtype) for s in found]
    assert kinds == [
        ("normal", (6, 3), "float32"),
        ("uniform", (6, 3), "float32"),
        ("integers", (4,), "int64"),
        ("permutation", (5,), "int64"),
        ("bernoulli", (6, 8), "bool"),
        ("uniform", (7,), "float32"),
        ("uniform", (7,), "float32"),
        ("normal", (7,), "float32"),
        ("uniform", (7,), "float32"),
        ("normal", (7,), "float32"),
    ]


def test_the_reference_and_the_oracle_use_the_same_random_values() -> None:
    spec = random_spec()
    case = spec.cases[0]
    reference = load_reference(spec, case, 0)
    inputs = draw_inputs(spec, case, 11)
    outs = reference.call(*inputs), in_float64(reference).call(*inputs)
    assert [o.dtype for o in outs[1]] == [torch.float64] * 5
    for low, high in zip(*outs, strict=True):
        torch.testing.assert_close(low.double(), high, rtol=1e-5, atol=1e-5)


def test_a_recurrent_layer_with_a_random_state_runs_whole() -> None:
    python = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 8, 2, batch_first=True)
    def forward(self, x):
        h = torch.randn(2, x.shape[0], 8)
        return self.lstm(x, (h, torch.rand_like(h)))[0]
"""
    spec = spec_of(python, {"x": [2, 256, 8]})
    reference = load_reference(spec, spec.cases[0], 0)
    inputs = draw_inputs(spec, spec.cases[0], 3)
    oracle = in_float64(reference)
    assert reference.module is not None
    whole = reference.module.lstm(inputs[0], inputs[1:])[0]
    assert torch.equal(reference.call(*inputs), whole)
    first, second = oracle.call(*inputs), oracle.call(*inputs)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.double(), second, rtol=1e-5, atol=1e-5)


def test_random_values_follow_the_seed() -> None:
    spec = random_spec()
    case = spec.cases[0]
    call = load_reference(spec, case, 0).call
    first, again, other = (call(*draw_inputs(spec, case, s)) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_dropout_keeps_its_share_and_scale() -> None:
    spec = spec_of(
        "import torch\ndef f(x): return torch.nn.functional.dropout(x, 0.25, True)", {"x": [100, 100]}
    )
    case = spec.cases[0]
    x, mask = draw_inputs(spec, case, 3)
    out = load_reference(spec, case, 0).call(x, mask)
    assert abs(float(mask.float().mean()) - 0.75) < 0.03
    torch.testing.assert_close(out, torch.where(mask, x / 0.75, torch.zeros(())))


def test_a_module_in_train_mode_draws_and_in_eval_mode_does_not() -> None:
    counts = [
        len(load_reference(s, s.cases[0], 0).random_inputs)
        for mode in ("eval", "train")
        for s in [spec_of(LINEAR, {"x": [3, 8]}, init={"n": 8}, mode=mode)]
    ]
    assert counts == [0, 1]


def test_attention_without_dropout_draws_nothing() -> None:
    python = "import torch\ndef f(q): return torch.nn.functional.scaled_dot_product_attention(q, q, q)"
    spec = spec_of(python, {"q": [1, 2, 16, 8]})
    assert load_reference(spec, spec.cases[0], 0).random_inputs == ()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("torch.multinomial(x.softmax(-1), 2)", "aten.multinomial"),
        ("torch.poisson(x.abs())", "aten.poisson"),
        ("x * random.random()", "Python's random"),
        ("x * float(numpy.random.rand())", "numpy.random"),
    ],
)
def test_randomness_that_cannot_be_an_input_is_refused(body: str, words: str) -> None:
    spec = spec_of(f"import random\nimport numpy\nimport torch\ndef f(x): return {body}", {"x": [4, 8]})
    with pytest.raises(SpecError, match=words) as caught:
        load_reference(spec, spec.cases[0], 0)
    assert "line 4" in str(caught.value) or "draws from" in str(caught.value)


@pytest.mark.parametrize(
    "body", ["x if torch.rand(1).item() > 0.5 else -x", "x[x > 0].tolist()[0] * torch.rand(3)"]
)
def test_random_draws_that_steer_python_are_refused(body: str) -> None:
    spec = spec_of(f"import torch\ndef f(x): return {body}", {"x": [4, 8]})
    with pytest.raises(SpecError, match="random numbers") as caught:
        load_reference(spec, spec.cases[0], 0)
    assert "outside of the reference" in str(caught.value)


def test_shapes_that_follow_from_values_are_refused_beside_random_draws() -> None:
    python = (
        "import torch\ndef f(x):\n    y = x[x > 0]\n    return torch.rand(3) + y.view(1, y.shape[0]).sum()"
    )
    spec = spec_of(python, {"x": [64, 8]})
    with pytest.raises(SpecError, match="other operators for other inputs"):
        load_reference(spec, spec.cases[0], 0)


def test_exponential_draws_are_never_zero() -> None:
    spec = spec_of("import torch\ndef f(x): return torch.zeros_like(x).exponential_()", {"x": [4]})
    call = load_reference(spec, spec.cases[0], 0).call
    assert float(call(torch.zeros(4), torch.zeros(4)).min()) > 0


def test_hidden_randomness_shows_in_two_runs() -> None:
    spec = spec_of(
        "import numpy\nrng = numpy.random.default_rng()\ndef f(x): return x * float(rng.random())", {"x": [4]}
    )
    with pytest.raises(SpecError, match="two runs of the reference"):
        validate_runs(spec)


def test_a_state_kept_from_call_to_call_shows_in_two_runs() -> None:
    spec = spec_of("n = [0]\ndef f(x):\n    n[0] += 1\n    return x * n[0]", {"x": [4]})
    with pytest.raises(SpecError, match="two runs of the reference"):
        validate_runs(spec)


def test_a_sound_reference_is_valid() -> None:
    validate_runs(random_spec())


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("import no_such_module\ndef f(x): return x", ["does not import", "no_such_module", "line 1"]),
        ("def f(x):\n    y = x\n    return y @ y", ["fails on case", "line 3"]),
        ("def f(x, y): return x + y", ["fails on case", "positional argument"]),
        ("def f(x): return 3", ["returns no tensor"]),
        ("case = 3", ["is not a function", "got:   int"]),
        (
            "import torch\nclass Model(torch.nn.Module):\n    def __init__(self, n):\n        pass",
            ["cannot be constructed"],
        ),
    ],
)
def test_a_reference_that_does_not_run_names_its_line(python: str, words: list[str]) -> None:
    spec = spec_of(python, {"x": [4, 8]})
    with pytest.raises(SpecError) as caught:
        validate_runs(spec)
    assert [w for w in words if w not in str(caught.value)] == []


def test_the_oracle_reads_dtype_literals_as_double() -> None:
    python = """
import torch
TABLE = torch.linspace(0, 1, 8)
def f(x):
    h = x.to(torch.float32) @ torch.full((8, 8), 0.1, dtype=torch.float32)
    return (h.float() + torch.tensor([0.3])) @ TABLE
"""
    spec = spec_of(python, {"x": {"shape": [4, 8], "dtype": "float16"}})
    oracle = in_float64(load_reference(spec, spec.cases[0], 0))
    x = draw_inputs(spec, spec.cases[0], 1)[0]
    expected = (x.double().sum(1, keepdim=True) * 0.1 + 0.3).expand(4, 8)
    torch.testing.assert_close(
        oracle.call(x), expected @ torch.linspace(0, 1, 8).double(), rtol=1e-13, atol=1e-13
    )
    assert (oracle.dtype, oracle.refused) == ("float64", [])


def test_a_reference_that_refuses_double_runs_as_declared() -> None:
    spec = spec_of(
        "import torch\ndef f(x): return (x.view(torch.int32) >> 1).view(torch.float32)", {"x": [4]}
    )
    reference = load_reference(spec, spec.cases[0], 0)
    oracle = in_float64(reference)
    x = draw_inputs(spec, spec.cases[0], 1)
    assert torch.equal(oracle.call(*x), reference.call(*x))
    assert [r.startswith("whole reference") for r in oracle.refused] == [True]


def test_the_oracle_leaves_the_reference_in_its_dtype() -> None:
    spec = spec_of(LINEAR, {"x": [3, 8]}, init={"n": 8})
    reference = load_reference(spec, spec.cases[0], 0)
    oracle = in_float64(reference)
    x = draw_inputs(spec, spec.cases[0], 1)
    assert (reference.call(*x).dtype, oracle.call(*x).dtype) == (torch.float32, torch.float64)


KERNELBENCH = """
import torch
class Model(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.w = torch.nn.Parameter(torch.rand(n, n))
    def forward(self, x, labels, tri):
        return x @ self.w @ tri, labels
def get_inputs():
    return [torch.rand(16, 8), torch.randint(0, 3, (16,)), torch.tril(torch.rand(8, 8))]
def get_init_inputs():
    return [8]
"""


def test_inputs_of_a_kernelbench_file_come_from_the_seed() -> None:
    spec = spec_of(KERNELBENCH)
    case = spec.cases[0]
    first, again, other = (draw_inputs(spec, case, s) for s in (1, 1, 2))
    assert [torch.equal(a, b) for a, b in zip(first, again, strict=True)] == [True] * 3
    assert not torch.equal(first[0], other[0])


def test_only_free_floats_of_a_kernelbench_file_vary() -> None:
    spec = spec_of(KERNELBENCH)
    case = spec.cases[0]
    assert variants(spec, case) == ("base", "large", "sparse", "structured", "special")
    base, large = draw_inputs(spec, case, 1), draw_inputs(spec, case, 1, "large")
    assert [torch.equal(a, b) for a, b in zip(base, large, strict=True)] == [False, True, True]


def test_constructor_arguments_of_a_kernelbench_file_are_kept() -> None:
    spec = spec_of(KERNELBENCH)
    reference = load_reference(spec, spec.cases[0], 7)
    assert (reference.init_args, reference.init_kwargs) == ((8,), {})
    torch.manual_seed(7)
    assert reference.module is not None
    assert torch.equal(reference.module.w, torch.rand(8, 8))


def test_torch_compile_takes_a_reference_with_random_inputs() -> None:
    spec = spec_of("import torch\ndef f(x): return torch.relu(x + torch.randn(4, 8))", {"x": [4, 8]})
    reference = load_reference(spec, spec.cases[0], 0)
    inputs = draw_inputs(spec, spec.cases[0], 1)
    graph = torch.compile(reference.call, backend="eager", fullgraph=True)
    assert torch.equal(graph(*inputs), reference.call(*inputs))


def test_inputs_of_a_kernelbench_file_are_described_without_drawing_them() -> None:
    spec = spec_of(KERNELBENCH)
    described = example_inputs(spec, spec.cases[0])
    drawn = draw_inputs(spec, spec.cases[0], 0)
    assert [(t.device.type, t.shape, t.dtype) for t in described] == [
        ("meta", t.shape, t.dtype) for t in drawn
    ]


def test_inputs_that_are_made_from_data_are_drawn_and_described() -> None:
    spec = spec_of(KERNELBENCH.replace("torch.rand(16, 8)", "torch.rand(int(torch.ones(16).sum()), 8)"))
    assert example_inputs(spec, spec.cases[0])[0].shape == (16, 8)


@pytest.mark.parametrize(
    "python",
    [
        "def f(x): return (x @ x).relu()",
        "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x): return (x @ x).relu()",
    ],
)
def test_a_reference_is_looked_at_without_its_data(python: str) -> None:
    spec = spec_of(python, {"x": [1 << 24, 1 << 24]})  # 1 PiB
    assert load_reference(spec, spec.cases[0], 0).random_inputs == ()


def test_a_tensor_that_pruning_left_is_copied_with_its_module() -> None:
    pruned = "self.linear = torch.nn.utils.prune.random_unstructured(self.linear, 'weight', 0.5)"
    python = LINEAR.replace("self.drop = torch.nn.Dropout(0.25)", pruned).replace("self.drop(", "(")
    spec = spec_of("import torch.nn.utils.prune\n" + python, {"x": [3, 8]}, init={"n": 8})
    reference = load_reference(spec, spec.cases[0], 0)
    double = in_float64(reference)
    x = torch.randn(3, 8)
    torch.testing.assert_close(double.call(x), reference.call(x).double())


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers_are_looked_at_whole(layer: str, batch_first: bool) -> None:
    """What draws after one has the shape that the layer's result has."""
    python = f"""
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.r = torch.nn.{layer}(4, 6, 2, bidirectional=True, batch_first={batch_first})
    def forward(self, x):
        y, state = self.r(x)
        h = state[0] if isinstance(state, tuple) else state
        return torch.rand_like(y) + y, torch.rand_like(h)
"""
    spec = spec_of(python, {"x": [3, 5, 4]})
    shapes = [s.shape for s in load_reference(spec, spec.cases[0], 0).random_inputs]
    assert shapes == [(3, 5, 12), (4, 3 if batch_first else 5, 6)]


def test_a_reference_with_control_flow_as_an_operator_runs() -> None:
    python = "import torch\ndef f(x): return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))"
    spec = spec_of(python, {"x": [4]})
    assert load_reference(spec, spec.cases[0], 0).random_inputs == ()


def test_a_function_that_looks_at_values_is_run_in_full() -> None:
    spec = spec_of("def f(x): return x if bool((x == x).all()) else x.sum()", {"x": [4]})
    assert load_reference(spec, spec.cases[0], 0).random_inputs == ()
