"""Parts of a run from names and options."""

from __future__ import annotations

import pytest

import kevolve_cpu.plugin
from kevolve_core.api.parts import Place, generator_of, place
from kevolve_core.errors import ConfigError
from kevolve_core.ir import LibraryCall
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.registry import Registry
from kevolve_core.synth import SynthGenerator

SPEC = KernelSpec(
    name="row_sums_of_a_product",
    reference=Reference("def f(x, w):\n    return (x @ w).sum(-1)\n", "f"),
    cases=(Case("main", (InputSpec("x", (8, 16)), InputSpec("w", (16, 32)))),),
)


@pytest.fixture(scope="module")
def where() -> Place:
    registry = Registry()
    registry.register(kevolve_cpu.plugin, name="cpu")
    return place(SPEC, "cpu", registry=registry)


@pytest.mark.parametrize(("without", "products"), [([], 0), (["sums_of_products"], 1)])
def test_a_rewrite_is_left_out_by_name(where: Place, without: list[str], products: int) -> None:
    made = generator_of("synth", where, SPEC, {"synth": {"without": without}})
    assert isinstance(made, SynthGenerator)
    assert products == sum(isinstance(s, LibraryCall) for s in made.programs()[0].steps)


def test_a_rewrite_that_does_not_exist_is_refused_with_those_that_do(where: Place) -> None:
    with pytest.raises(ConfigError) as raised:
        generator_of("synth", where, SPEC, {"synth": {"without": ["folding"]}})
    assert "batch_norm_folding" in raised.value.mend
