"""Prompts word for word (golden files), what is left out of them, and who decides it."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from bench import DEVICE, SPEC, proposal

from kevolve_core.errors import ProviderError
from kevolve_core.evaluate.rules import ALLOWED_MODULES
from kevolve_core.kernelspec import Reference
from kevolve_core.llm import Knowledge
from kevolve_core.llm.context import Sibling, Writer, role_of
from kevolve_core.llm.parts import Part, assemble, fit
from kevolve_core.model import (
    Candidate,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Profile,
    Roofline,
    Verdict,
    VerdictKind,
)

GOLDEN = Path(__file__).parent / "golden"
FILES = {
    "kernel.py": "import torch\n\n\ndef double(x):\n    return x + x\n",
    "kernel.cpp": '#include <cstdint>\n\nextern "C" void go(const float* x, float* y, int64_t n) {\n'
    "    for (int64_t i = 0; i < n; ++i) y[i] = 2 * x[i];\n}\n",
}
PARENT = Candidate(FILES, "kernel.py", "cpp", "double", origin=Origin("llm", "draft"))
CHILD = Candidate(
    FILES | {"kernel.cpp": FILES["kernel.cpp"].replace("2 * x[i]", "x[i] + x[i]")},
    "kernel.py",
    "cpp",
    "double",
    (PARENT.id,),
    origin=Origin("llm", "improve"),
)
TIMED = Measurement(
    "a", "fake:0", Evidence.MEASURED, "quick", (2e-3,), {"eager": (3e-3,)}, floor_seconds=1e-3
)
GOOD = Evaluation(
    PARENT.id,
    Verdict(VerdictKind.ACCEPTED),
    measurements=(TIMED,),
    score=1.5,
    evidence=Evidence.MEASURED,
    profile=Profile(
        Evidence.MEASURED,
        {"cpu_seconds": 0.004},
        Roofline(1e6, 2e5, 1e9, 1e11, 1e-3, 0.5),
        "memory",
        ("50 % of the measured bandwidth: stores read what they overwrite",),
    ),
)
DETAIL = {"case": "a", "index": [0, 3], "got": 1.5, "expected": 2.0, "error": 0.5, "bound": 1e-7, "seed": 11}
WRONG = Evaluation(PARENT.id, Verdict(VerdictKind.WRONG_RESULT, "1 of 256 elements differ", "small", DETAIL))
BROKEN = Evaluation(
    PARENT.id,
    Verdict(
        VerdictKind.COMPILE_ERROR,
        "kernel.cpp:4:30: error: 'z' was not declared in this scope",
        "compile",
        {"log": "kernel.cpp:4:30: error: 'z' was not declared in this scope\n    4 |     y[i] = z;"},
    ),
)
PAGES = [Knowledge("Streaming stores", "A store that is not read again may bypass the caches.\n", 2.0)]


def writer(language: str = "cpp") -> Writer:
    return Writer(SPEC, DEVICE, language)


def mutate(evaluation: Evaluation, *parents: Candidate) -> object:
    shown = parents or (PARENT,)
    return proposal(7, operator="mutate", parents=shown, evaluations={PARENT.id: evaluation}, told=4)


def text(context: object, siblings: tuple[Sibling, ...] = (), language: str = "cpp") -> str:
    made = writer(language)
    role = role_of(context, language)  # type: ignore[arg-type]
    parts = made.parts(context, role, siblings, PAGES)  # type: ignore[arg-type]
    prompt = assemble(made.system(), parts, tokens=1 << 20, patterns=(), provider="p")
    return "".join(f"<<< {m.role} >>>\n{m.content}\n" for m in prompt.messages)


CASES = {
    "draft": lambda: text(proposal()),
    "repair_wrong_result": lambda: text(mutate(WRONG)),
    "repair_compile_error": lambda: text(mutate(BROKEN)),
    "improve": lambda: text(mutate(GOOD), (Sibling(CHILD, evolve(GOOD, candidate_id=CHILD.id, score=1.2)),)),
    "combine": lambda: text(mutate(GOOD, PARENT, CHILD)),
    "port": lambda: text(mutate(GOOD), language="triton"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_is_word_for_word_as_reviewed(name: str, request: pytest.FixtureRequest) -> None:
    del request
    file = GOLDEN / f"{name}.md"
    assert file.read_text() == CASES[name](), "if that was meant: python tests/llm/write_golden.py"


def test_a_module_keeps_the_names_of_its_state() -> None:
    module = evolve(SPEC, reference=Reference("class Model: ...", "Model", kind="module"))
    assert (
        "class `ModelNew` with the constructor of the reference's `Model`"
        in Writer(module, DEVICE, "cpp").system().text
    )


def test_the_contract_names_every_module_that_the_rules_allow() -> None:
    system = writer().system().text
    assert [
        name for name in ALLOWED_MODULES - {"cutlass", "cuda", "__future__"} if f"`{name}`" not in system
    ] == []


def test_shapes_of_the_holdout_are_not_shown() -> None:
    assert "hidden" not in text(proposal())


def part(name: str, size: int, value: float | None, **more: bool) -> Part:
    return Part(name, "word word word\n" * size, value, **more)


def test_the_least_valuable_parts_are_left_out_first() -> None:
    parts = [
        part("task", 10, None),
        part("page", 100, 0.9),
        part("sibling", 100, 1.0),
        part("verdict", 100, 8.0),
    ]
    kept, left = fit(parts, 1_100)
    assert [p.name for p in kept] == ["task", "verdict"]
    assert [(each.name, each.why) for each in left] == [("page", "budget"), ("sibling", "budget")]


def test_a_log_is_shortened_before_it_is_left_out() -> None:
    kept, left = fit([part("task", 10, None), part("verdict", 400, 8.0, shrinks=True)], 1_200)
    assert [(each.name, each.why) for each in left] == [("verdict", "shortened")]
    assert "lines left out …" in kept[1].text


def test_a_prompt_whose_essentials_do_not_fit_is_refused() -> None:
    with pytest.raises(ProviderError, match="does not fit") as caught:
        fit([part("task", 1000, None)], 500)
    assert caught.value.kind == "context"
