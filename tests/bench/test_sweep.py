"""The sweep's parts: compiling ahead, comparing results of gigabytes, rows."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from kevolve_core.bench.ahead import CompiledAhead, hollow
from kevolve_core.bench.answered import AnsweredInputs
from kevolve_core.bench.pipeline import _verdicts
from kevolve_core.evaluate import tolerance
from kevolve_core.kernelspec import Precision


def test_a_hollow_tensor_has_shape_and_strides_and_no_memory() -> None:
    made = hollow(torch.empty(3, 5, device="meta").t(), torch.device("cpu"))
    assert (made.shape, made.stride(), made.untyped_storage().nbytes()) == ((5, 3), (1, 5), 0)


def test_a_baseline_is_compiled_without_running_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, ran = [], []

    def compile_fx(graph: Any, _examples: Any) -> Any:
        compiled.append(graph)

        def run(*arguments: Any) -> Any:
            ran.append(1)
            return graph(*arguments)

        return run

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    ahead = CompiledAhead(lambda x: x.relu() + 1)
    ahead.prepare([hollow(torch.empty(4, device="meta"), torch.device("cpu"))])
    before = (len(compiled), len(ran))
    ahead.arm()
    with torch.no_grad():
        out = ahead(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert (before, len(compiled), out.tolist()) == ((1, 0), 1, [1.0, 1.0, 2.0, 3.0])


class _Double:
    refused: tuple[str, ...] = ()

    def call(self, x: torch.Tensor) -> torch.Tensor:
        return x.double() * 2


@pytest.mark.parametrize(("off", "wrong"), [(0.0, False), (1e-3, True)])
def test_a_large_result_is_compared_in_parts(
    monkeypatch: pytest.MonkeyPatch, off: float, wrong: bool
) -> None:
    monkeypatch.setattr(tolerance, "_HOST_PART", 16)
    x = torch.randn(5, 13)
    double: Any = _Double()
    data = AnsweredInputs([x], lambda x: x * 2, double)
    got = x * 2
    got[4, 12] += off
    assert bool(data.wrong(got, Precision())) == wrong


@pytest.mark.parametrize(("value", "wrong"), [(float("inf"), False), (1.0, True), (float("nan"), True)])
def test_infinities_of_a_large_result_are_compared_in_parts(
    monkeypatch: pytest.MonkeyPatch, value: float, wrong: bool
) -> None:
    monkeypatch.setattr(tolerance, "_HOST_PART", 16)
    x = torch.randn(5, 13)
    x[4, 12] = float("inf")
    double: Any = _Double()
    data = AnsweredInputs([x], lambda x: x * 2, double)
    got = x * 2
    got[4, 12] = value
    assert bool(data.wrong(got, Precision())) == wrong


def test_an_integer_result_has_no_bound() -> None:
    double: Any = _Double()
    double.call = lambda x: x.double().argmax(1)
    x = torch.randn(5, 13)
    data = AnsweredInputs([x], lambda x: x.argmax(1), double)
    assert (data.wrong(x.argmax(1), Precision()), data.wrong(x.argmin(1), Precision()) != "") == ("", True)


def test_freed_inputs_hold_no_memory() -> None:
    results: list[weakref.ref[Any]] = []

    def reference(x: torch.Tensor) -> torch.Tensor:
        out = x * 2
        results.append(weakref.ref(out.untyped_storage()))
        return out

    double: Any = _Double()
    gc.disable()  # on a device, memory is wanted before a collection comes
    try:
        data = AnsweredInputs([torch.ones(3)], reference, double)
        data.free()
        assert [r() for r in results] == [None]
    finally:
        gc.enable()


def test_a_float64_reference_without_memory_is_an_error_and_no_yardstick() -> None:
    double: Any = _Double()
    double.refused = ("whole reference (OutOfMemoryError: CUDA out of memory)",)
    with pytest.raises(Exception, match="does not fit the device's memory"):
        AnsweredInputs([torch.ones(3)], lambda x: x * 2, double)


def test_every_candidate_is_in_the_verdicts() -> None:
    built = [{"artifact": 1}, {"artifact": 2}, {"refused": "no"}]
    measured = [{"reason": ""}, {"reason": "wrong"}]
    assert _verdicts(built, measured, 1) == {
        "accepted": 1, "wrong_or_failed": 1, "refused_by_compiler": 1, "crash": 1,
    }  # fmt: skip
