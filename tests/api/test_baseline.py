"""The kernel that a run delivers when nothing beat the baseline."""

from __future__ import annotations

import attrs
import pytest

from kevolve_core.api.baseline import baseline_kernel, fastest_baseline
from kevolve_core.interfaces import Baseline
from kevolve_core.kernelspec import Reference
from tests.report.records import accepted, candidate, case, measurement, spec

BASELINES = (Baseline("eager", "eager", "m:f"), Baseline("fast", "compiled", "m:g"))
MODULE = "import torch\n\n\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        return x + 1\n"


def test_the_fastest_over_all_cases_is_chosen() -> None:
    two = spec(case("a"), case("b"))
    evaluation = attrs.evolve(accepted(0, 1.0), measurements=(measurement("a"), measurement("b")))
    assert fastest_baseline(two, evaluation) == "compiled"


def test_eager_is_chosen_where_nothing_was_timed() -> None:
    assert fastest_baseline(spec(), None) == "eager"


def test_the_users_own_kernel_is_the_baseline_where_it_is_fastest() -> None:
    own = candidate(5)
    seeded = attrs.evolve(spec(), seeds=(own,))
    assert baseline_kernel(seeded, f"seed {own.id}", BASELINES) == own


@pytest.mark.parametrize("name", ["eager", "fast"])
def test_a_module_becomes_a_model_new_that_computes_the_same(name: str) -> None:
    torch = pytest.importorskip("torch")
    kernel = baseline_kernel(
        attrs.evolve(spec(), reference=Reference(MODULE, "Model", "module")), name, BASELINES
    )
    namespace: dict[str, object] = {}
    exec(kernel.files[kernel.entry], namespace)
    made = namespace["ModelNew"]
    assert callable(made)
    if name == "eager":
        assert torch.equal(made()(torch.zeros(2)), torch.ones(2))
    else:
        assert made()._compiled_call_impl is not None


def test_a_function_keeps_its_name() -> None:
    kernel = baseline_kernel(spec(), "eager", BASELINES)
    assert (kernel.symbol, kernel.files[kernel.entry]) == ("rmsnorm", spec().reference.source)
