"""Judging the first drafts of a problem."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kevolve_core.bench import check


@pytest.mark.parametrize(
    ("drafts", "correct", "wrong"), [(1, False, ["off"]), (3, True, ["off"]), (2, True, ["off"])]
)
def test_a_draft_after_a_wrong_one_may_solve_the_problem(
    monkeypatch: pytest.MonkeyPatch, drafts: int, correct: bool, wrong: list[str]
) -> None:
    """The first draft of this generator is wrong, the second is right."""
    role: Any = object.__new__(check.CheckRole)
    monkeypatch.setattr(check, "check_candidate", lambda _: [])
    role._generator = lambda *_: None
    role._proposed = lambda _g, _s, _seed, sequence, _row: SimpleNamespace(libraries=(), number=sequence)

    def tried(_spec: Any, candidate: Any, _seed: int, _secret: int, row: dict[str, Any]) -> None:
        row["reason"] = "" if candidate.number == 1 else "off"

    role._tried = tried
    row: dict[str, Any] = {"correct": False, "generated_correct": False, "reason": "", "libraries": []}
    role._checked(None, 0, 0, drafts, row)
    assert (row["correct"], row["wrong_drafts"]) == (correct, wrong)
