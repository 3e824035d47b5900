"""Generated kernels are right: Triton's interpreter runs them and the evaluator's tolerance judges.

The problems run in one process of their own, since ``TRITON_INTERPRET`` is read when Triton is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.spec import load_spec
from tests.interpreted.judging import Judge, candidates_of
from tests.interpreted.problems import PROBLEMS

ROOT = Path(__file__).parents[3]
ALL = [(name, point) for name, problem in PROBLEMS.items() for point in problem.points]


@pytest.fixture(scope="module")
def verdicts() -> Mapping[tuple[str, str], str]:
    """What is wrong with each (problem, point); empty for nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.interpreted.run"],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {(r["problem"], r["point"]): r["wrong"] for r in rows}


@pytest.mark.parametrize(("problem", "point"), ALL)
def test_a_generated_kernel_is_right(
    verdicts: Mapping[tuple[str, str], str], problem: str, point: str
) -> None:
    assert verdicts[problem, point] == ""


def _small(name: str) -> KernelSpec:
    """An example with its ragged case alone, which the interpreter can afford."""
    spec = load_spec(ROOT / "examples" / f"{name}.yaml")
    return attrs.evolve(spec, cases=(attrs.evolve(spec.case("ragged"), role="tune"),))


@pytest.mark.slow
def test_the_evaluator_accepts_a_generated_kernel_and_sees_no_library_call() -> None:
    spec = _small("group_norm_silu")
    judge = Judge(spec)
    try:
        evaluation = judge(candidates_of(spec)[0])
    finally:
        judge.close()
    assert (evaluation.verdict.kind, evaluation.verdict.reason) == ("accepted", "")
    # What the interpreter itself does to its arguments.
    assert set(evaluation.library_calls) <= {"aten::set_", "aten::copy_"}
