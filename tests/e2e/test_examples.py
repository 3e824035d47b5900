"""The examples: first drafts are right on small shapes, and searches on the real ones end with evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

import kevolve_core
from kevolve_core.api.parts import as_spec, place
from kevolve_core.interfaces import Proposal
from kevolve_core.synth import SynthGenerator

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
#: On real shapes a search takes a minute or two; benchmarks/cpu_examples.py runs all of them.
SEARCHED = ("map_id", "rmsnorm", "linear_gelu")
JUDGED = ("rules", "compile", "small")


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.stem not in SEARCHED], ids=lambda p: p.stem)
def test_the_first_draft_of_an_example_is_right_on_small_shapes(path: Path) -> None:
    spec = as_spec(path)
    where = place(spec, "cpu")
    generator = SynthGenerator(spec, where.backend.renderers(), where.backend.schedule_space, where.device)
    (draft,) = generator.propose_now(Proposal(spec, where.device, 0, 0), 1)
    evaluation = kevolve_core.evaluate(path, draft, backend="cpu", stages=JUDGED)
    assert [s.stage for s in evaluation.stages] == list(JUDGED)
    assert evaluation.accepted


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_an_example_evolves(name: str, tmp_path: Path) -> None:
    path = next(p for p in EXAMPLES if p.stem == name)
    result = kevolve_core.evolve(path, backend="cpu", budget="2c", out=tmp_path / "run")
    assert "accepted" in {point.verdict for point in result.search.trajectory}
    assert result.evidence == "measured"
    assert result.evaluation is not None
    assert result.confirmed or not result.improved
    if result.improved:
        assert result.speedup is not None
        assert result.speedup.low >= 1
    assert result.report.kernel.exists()
