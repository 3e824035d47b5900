"""The sweep's parts: compiling ahead, comparing results of gigabytes, rows."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kevolve_core.bench.ahead import CompiledAhead, hollow
from kevolve_core.bench.answered import AnsweredInputs
from kevolve_core.bench.pipeline import Pipeline, _verdicts
from kevolve_core.bench.sweep import SweepRole
from kevolve_core.errors import KevolveError, WorkerError
from kevolve_core.evaluate import tolerance
from kevolve_core.isolate.process import RemoteError
from kevolve_core.kernelspec import Case, KernelSpec, Precision, Reference
from kevolve_core.model import Artifact, Candidate, Device, Target
from kevolve_core.serial import to_plain


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


# --- a candidate that takes the device down -----------------------------------------------------------------


def _role(tmp_path: Path, lost: list[bool]) -> Any:
    """A sweeping process whose device is gone once ``lost`` says so, and then refuses everything."""

    def refuse(*_: Any) -> None:
        if lost[0]:
            raise RuntimeError("an illegal memory access was encountered")

    role: Any = object.__new__(SweepRole)
    role._workdir, role._busy = tmp_path, 0.0
    role._runner = SimpleNamespace(synchronize=refuse, reset=refuse)
    return role


def test_a_lost_device_is_blamed_on_the_candidate_whatever_else_it_refuses(tmp_path: Path) -> None:
    """Clearing up fails as well then, and its error must not take the place of the candidate's number."""
    lost = [False]
    role = _role(tmp_path, lost)

    def program(*_: Any) -> str:
        lost[0] = True
        raise RuntimeError("an illegal memory access was encountered")

    role._measured = lambda *_: role._attempted(3, program)
    with pytest.raises(KevolveError, match="took the device down") as caught:
        role.op_measure([], 0, 0.1)
    assert caught.value.got == 3


def test_an_error_that_leaves_the_device_alone_is_a_verdict(tmp_path: Path) -> None:
    def program() -> str:
        raise ValueError("no")

    assert _role(tmp_path, [False])._attempted(0, program) == "ValueError: no"


class _Crashing:
    """Stands for a checking process: candidates of ``bad`` end it, by the error they are mapped to."""

    closed = False

    def __init__(self, names: Sequence[str], bad: Mapping[str, WorkerError]) -> None:
        self._names, self._bad = names, bad
        self._at = ""
        self.plans = 0

    def measuring(self) -> str:
        return self._at

    def call(self, op: str, arguments: Any, **_: Any) -> Any:
        if op == "plan":
            self.plans += 1
            made = [to_plain(Candidate({"k.py": n}, "k.py", "python")) for n in self._names]
            return {"candidates": made, "steps": 1, "propose_s": 0.0}
        if op == "compile":
            self.without = list(arguments["without"])
            return {"compile_s": 0.0, "broken": {}}
        if "eager" in self._bad and "eager" not in self.without:
            raise self._bad["eager"]
        rows = []
        for number, entry in enumerate(arguments["entries"]):
            self._at = str(number)
            name = entry["candidate"]["files"]["k.py"]
            if name in self._bad:
                error = self._bad[name]
                if isinstance(error, RemoteError):
                    error.parts = {**error.parts, "got": str(number)}
                raise error
            rows.append({"number": number, "reason": ""})
        return {"candidates": rows, "winner": None, "broken": {}, "quick": {}, "phases": {}, "timed_s": 0.0}


def _row(names: Sequence[str], bad: Mapping[str, WorkerError], tmp_path: Path) -> tuple[Any, int]:
    device = Device("d", "t", "a device", Target("t", "x"))
    compiler = SimpleNamespace(compile=lambda c, *_: Artifact(c.id, c.id, device.target))
    where: Any = SimpleNamespace(device=device, backend=SimpleNamespace(compiler=lambda _: compiler))
    pipeline = Pipeline(where, len(names), 0, tmp_path)
    worker: Any = _Crashing(names, bad)
    spec = KernelSpec("s", Reference("", "f"), (Case("main"),))
    try:
        problem: Any = SimpleNamespace(id="1/1", level=1, number=1, name="p")
        return pipeline.row(problem, spec, worker), worker.plans
    finally:
        pipeline.close()


def _lost_device() -> RemoteError:
    parts = {"what": "a candidate took the device down", "where": "illegal memory access"}
    return RemoteError({"type": "KevolveError", "lost": "illegal memory access", "parts": parts})


def test_a_candidate_that_takes_the_device_down_costs_one_verdict(tmp_path: Path) -> None:
    row, plans = _row("abcd", {"b": _lost_device()}, tmp_path)
    assert (row["verdicts"], plans, row["tried"]) == ({"accepted": 3, "crash": 1}, 2, 4)


def test_so_does_each_of_several(tmp_path: Path) -> None:
    bad = {name: _lost_device() for name in "abd"}
    row, plans = _row("abcd", bad, tmp_path)
    assert (row["verdicts"], plans) == ({"accepted": 1, "crash": 3}, 4)
    assert {r.partition(": a candidate")[2] for r in row["reasons"]} == {
        " took the device down: illegal memory access"
    }


def test_a_process_that_ends_without_a_word_is_laid_at_the_door_of_the_candidate_it_was_at(
    tmp_path: Path,
) -> None:
    row, _ = _row("abcd", {"c": WorkerError("killed by SIGSEGV", kind="crash")}, tmp_path)
    assert row["verdicts"] == {"accepted": 3, "crash": 1}


def test_a_baseline_that_takes_the_device_down_is_left_out(tmp_path: Path) -> None:
    error = RemoteError({"type": "WorkerError", "lost": "gone", "parts": {"got": "baseline eager"}})
    row, plans = _row("ab", {"eager": error}, tmp_path)
    assert (row["verdicts"], plans) == ({"accepted": 2}, 2)


def test_where_all_crash_the_row_says_so(tmp_path: Path) -> None:
    row, _ = _row("ab", {"a": _lost_device(), "b": _lost_device()}, tmp_path)
    assert (row["verdicts"], row["reason"][:5]) == ({"crash": 2}, "crash")


def test_measuring_is_not_begun_again_after_a_second_one_without_end(tmp_path: Path) -> None:
    bad = {name: WorkerError("no answer within 90 s", kind="timeout") for name in "ab"}
    with pytest.raises(WorkerError, match="no answer"):
        _row("abcd", bad, tmp_path)
