"""What becomes of candidates that fail: each gets the right verdict and the service goes on."""

from __future__ import annotations

import pytest

from kevolve_core.model import VerdictKind

from .conftest import Evaluate
from .kernels import HONEST, native, python

CORRECT = "out = torch.softmax(x * w, -1)\n"


def test_an_honest_kernel_is_accepted_and_timed(evaluate: Evaluate) -> None:
    evaluation = evaluate(HONEST)
    assert evaluation.verdict.kind is VerdictKind.ACCEPTED, evaluation.verdict
    assert [s.stage for s in evaluation.stages] == ["rules", "compile", "small", "cases", "quick"]
    assert evaluation.score is not None
    assert evaluation.score > 0
    assert evaluation.evidence == "measured"
    assert evaluation.library_calls == ()


def test_library_calls_are_reported(evaluate: Evaluate) -> None:
    evaluation = evaluate(python("return torch.softmax(x * w, -1)"))
    assert evaluation.verdict.kind is VerdictKind.ACCEPTED, evaluation.verdict
    assert evaluation.library_calls == ("aten::mul", "aten::softmax")


FAULTS = {
    "segfault": (native("*(volatile int*)8 = 1;"), VerdictKind.CRASH, "SIGSEGV"),
    "abort": (native("abort();"), VerdictKind.CRASH, "SIGABRT"),
    "hang": (native("for (volatile bool go = true; go;) {}"), VerdictKind.TIMEOUT, "5 s"),
    "memory": (
        native(
            "for (;;) { volatile char* p = (char*)malloc(1 << 26);"
            " for (int i = 0; i < 1 << 26; i += 4096) p[i] = 1; }"
        ),
        VerdictKind.OUT_OF_MEMORY,
        "2.00 GiB",
    ),
    "python memory": (
        python("keep = []\nwhile True:\n    keep.append(torch.zeros(1 << 24))"),
        VerdictKind.OUT_OF_MEMORY,
        "2.00 GiB",
    ),
    "one huge allocation": (
        python("return torch.empty(1 << 50, dtype=torch.uint8)"),
        VerdictKind.OUT_OF_MEMORY,
        "memory",
    ),
    "nan": (
        native("for (int64_t i = 0; i < rows * columns; ++i) out[i] = NAN;"),
        VerdictKind.WRONG_RESULT,
        "NaN",
    ),
    "out of bounds": (
        native("float s = 0; for (int64_t i = 0; i < 4096; ++i) s += x[rows * columns + i]; out[0] = s;"),
        VerdictKind.CRASH,
        "SIGSEGV",
    ),
    "the input": (python("return x"), VerdictKind.WRONG_RESULT, "tolerance"),
    "raises": (python("raise ValueError('no')"), VerdictKind.CRASH, "ValueError: no"),
    "does not import": (
        python("return x", "import torch.does_not_exist"),
        VerdictKind.CRASH,
        "ModuleNotFound",
    ),
    "no entry": ("import torch\n", VerdictKind.CRASH, "does not define"),
    "does not compile": (native("this is not C++"), VerdictKind.COMPILE_ERROR, ""),
    "wrong shape": (python("return torch.softmax(x * w, -1)[:-1]"), VerdictKind.WRONG_RESULT, "another type"),
    "wrong dtype": (
        python("return torch.softmax(x * w, -1).double()"),
        VerdictKind.WRONG_RESULT,
        "another type",
    ),
    "wrong structure": (
        python("return [torch.softmax(x * w, -1)]"),
        VerdictKind.WRONG_RESULT,
        "tree structure",
    ),
    "not a tensor": (python("return 1.0"), VerdictKind.WRONG_RESULT, "another type"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_verdict(evaluate: Evaluate, name: str) -> None:
    files, kind, reason = FAULTS[name]
    verdict = evaluate(files).verdict
    assert verdict.kind is kind, verdict
    assert reason in verdict.reason, verdict


def test_the_service_goes_on_after_every_fault(evaluate: Evaluate) -> None:
    assert evaluate(HONEST).accepted


def test_a_wrong_result_names_the_first_place(evaluate: Evaluate) -> None:
    off = evaluate(python(CORRECT + "out[2, 5] += 1e-3\nreturn out")).verdict
    assert off.kind is VerdictKind.WRONG_RESULT
    assert off.detail["index"] == [2, 5]
    assert off.detail["error"] == pytest.approx(1e-3, rel=1e-2)
    assert off.detail["seed"] > 0


def test_a_compile_error_has_the_log(evaluate: Evaluate) -> None:
    assert "error" in evaluate(native("this is not C++")).verdict.detail["log"]


def test_a_kernel_made_for_the_tune_shapes_fails_the_holdout(evaluate: Evaluate) -> None:
    body = CORRECT + "return out if x.shape[0] != 16 else out * 1.01"
    assert evaluate(python(body)).accepted
    confirmed = evaluate(python(body), "holdout")
    assert (confirmed.verdict.kind, confirmed.verdict.stage) == (VerdictKind.WRONG_RESULT, "holdout")


def test_the_honest_kernel_is_confirmed_in_fresh_processes(evaluate: Evaluate) -> None:
    evaluation = evaluate(HONEST, "confirm", "holdout", "profile")
    assert evaluation.accepted, evaluation.verdict
    measurement = evaluation.measurement("main", "confirm")
    assert measurement is not None
    assert set(measurement.ratios) == {"eager", "torch.compile"}
    assert len(measurement.candidate) == 3
    assert evaluation.profile is not None
    assert evaluation.profile.evidence == "measured"
