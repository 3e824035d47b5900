"""Candidates that compile to the same code are measured once in a search."""

from __future__ import annotations

from pathlib import Path

from kevolve_core.evaluate.code import code_key
from kevolve_core.model import Artifact, Candidate, Evaluation, Target, VerdictKind

from .conftest import Evaluate
from .kernels import ENTRY, HONEST, HONEST_CPP, native

SEARCH = ("rules", "compile", "small", "cases", "quick")
#: Another source, whose loop the compiler turns into the same instructions.
REWRITTEN = HONEST_CPP.replace("i < rows; ++i", "rows > i; i += 1").replace(
    "double total = 0;", "double total{};"
)
SLOWER = HONEST_CPP.replace("highest = -INFINITY", "highest = row[0] * w[0]")


def shared(evaluation: Evaluation) -> object:
    record = evaluation.stage("compile")
    return None if record is None else record.detail.get("same_code_as")


def test_the_same_code_from_another_source_is_measured_once(evaluate: Evaluate) -> None:
    first = evaluate(HONEST)
    again = evaluate({"kernel.py": ENTRY, "kernel.cpp": REWRITTEN})
    assert first.candidate_id != again.candidate_id
    assert (shared(first), shared(again)) == (None, first.candidate_id)
    assert (again.score, again.measurements) == (first.score, first.measurements)
    assert [record.stage for record in again.stages] == list(SEARCH)
    confirmed = evaluate({"kernel.py": ENTRY, "kernel.cpp": REWRITTEN}, *SEARCH, "race")
    assert shared(confirmed) is None  # a race is there to measure again


def test_other_code_is_measured_of_its_own(evaluate: Evaluate) -> None:
    evaluate(HONEST)
    other = evaluate({"kernel.py": ENTRY, "kernel.cpp": SLOWER})
    twice = ENTRY.replace("out = ", "out = torch.empty_like(x)\n    out = ")
    host = evaluate({**HONEST, "kernel.py": twice})
    same = evaluate(HONEST)  # asked for again: measured again
    assert [shared(each) for each in (other, host, same)] == [None, None, None]


def test_a_verdict_against_code_holds_for_its_twin(evaluate: Evaluate) -> None:
    wrong = "for (int64_t i = 0; i < rows * columns; ++i) out[i] = {};"
    first = evaluate(native(wrong.format("1.5f")))
    again = evaluate(native(wrong.format("3.0f / 2.0f")))
    assert first.verdict.kind is VerdictKind.WRONG_RESULT
    assert (again.verdict, shared(again)) == (first.verdict, first.candidate_id)


def test_a_jit_function_counts_by_its_binary(tmp_path: Path) -> None:
    host = "import triton\n\n@triton.jit\ndef k(x):\n    {}\n\ndef f(x):\n    k[({},)](x)\n"

    def key(body: str, grid: int, binary: bytes) -> str:
        file = tmp_path / "k.bin"
        file.write_bytes(binary)
        artifact = Artifact("key", "id", Target("t", "t"), binaries={"k-0": str(file)})
        return code_key(Candidate({"k.py": host.format(body, grid)}, "k.py", "triton"), {"main": artifact})

    first = key("y = x * 2", 1, b"code")
    assert key("z = 2 * x  # otherwise said", 1, b"code") == first
    assert key("y = x * 2", 2, b"code") != first
    assert key("y = x * 2", 1, b"other") != first


def test_nothing_is_known_where_nothing_is_compiled_ahead() -> None:
    candidate = Candidate({"k.py": "def f(x): return x"}, "k.py", "python")
    assert code_key(candidate, {"main": Artifact("key", candidate.id, Target("t", "t"))}) == ""
