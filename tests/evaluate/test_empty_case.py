"""A case of empty tensors beside others: it is checked, and says nothing about trivial answers."""

from __future__ import annotations

import pytest
from attrs import evolve

from kevolve_core.errors import DegenerateSpecError
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.kernelspec import Case, InputSpec
from kevolve_core.model import Candidate, VerdictKind

from .conftest import SPEC, make_executor
from .kernels import HONEST

HOLLOW = Case("hollow", (InputSpec("x", (0, 8)), InputSpec("w", (0, 8))))
TIMED = evolve(HOLLOW, name="timed")


def test_empty_cases_beside_a_full_one_are_no_fault_and_are_checked() -> None:
    spec = evolve(SPEC, cases=(evolve(HOLLOW, weight=0.0), SPEC.cases[1], TIMED))
    executor = make_executor(spec)
    try:
        executor.check_spec()
        candidate = Candidate(HONEST, entry="kernel.py", language="cpp")
        request = EvaluationRequest(spec, candidate, ("rules", "compile", "small", "cases"))
        verdict = executor.submit(request).result(timeout=120).verdict
    finally:
        executor.close()
    assert verdict.kind is VerdictKind.ACCEPTED, verdict


def test_nothing_but_empty_tensors_is_a_degenerate_specification() -> None:
    executor = make_executor(evolve(SPEC, cases=(TIMED,)))
    try:
        with pytest.raises(DegenerateSpecError):
            executor.check_spec()
    finally:
        executor.close()
