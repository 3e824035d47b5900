"""The device serves candidates in the order they were submitted, whichever is compiled first."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest

from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.model import Artifact, Candidate

from .conftest import SPEC, make_executor
from .kernels import ENTRY, HONEST_CPP


def test_what_compiles_fast_does_not_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make_executor(SPEC)
    names = ("slow", "fast")
    candidates = {
        name: Candidate({"kernel.py": ENTRY, "kernel.cpp": f"// {name}\n{HONEST_CPP}"}, "kernel.py", "cpp")
        for name in names
    }
    free, built, order = Event(), Event(), list[str]()
    real = executor._compiler

    class Delayed:
        @staticmethod
        def compile(candidate: Candidate, *rest: Any) -> Artifact:
            if candidate is candidates["slow"]:
                assert built.wait(60)
            artifact = real.compile(candidate, *rest)
            if candidate is candidates["fast"]:
                built.set()
            return artifact

    def stage(candidate: str, name: str) -> None:
        if name == "small":
            order.append(candidate)

    monkeypatch.setattr(executor, "_compiler", Delayed)
    monkeypatch.setattr(executor, "_on_stage", stage)
    try:
        executor._timer.submit(free.wait)  # the device is busy until both are built
        asked = [
            executor.submit(EvaluationRequest(SPEC, candidates[name], ("rules", "compile", "small")))
            for name in names
        ]
        while executor._built.qsize() < 2:
            assert not any(future.done() for future in asked)
        free.set()
        verdicts = [future.result(timeout=120).accepted for future in asked]
    finally:
        free.set()
        executor.close()
    assert verdicts == [True, True]
    assert order == [candidates[name].id for name in names]
