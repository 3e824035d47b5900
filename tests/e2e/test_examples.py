"""Every example, on its real shapes, through a small search: the answer is right and has evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

import kevolve_core

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_evolves(path: Path, tmp_path: Path) -> None:
    result = kevolve_core.evolve(path, backend="cpu", budget="2c", out=tmp_path / "run")
    assert "accepted" in {point.verdict for point in result.search.trajectory}
    assert result.evidence == "measured"
    assert result.evaluation is not None
    assert result.confirmed or not result.improved
    if result.improved:
        assert result.speedup is not None
        assert result.speedup.low >= 1
    assert result.report.kernel.exists()
