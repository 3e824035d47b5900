"""Judging the first drafts of a problem."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kevolve_core.bench import check
from kevolve_core.kernelspec import KernelSpec, Reference


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


class _Buffer:
    """Memory of a device that PyTorch does not know."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class _Apart:
    """A runner whose device has memory of its own."""

    def upload(self, tensor: torch.Tensor, *, guarded: bool = False) -> _Buffer:
        del guarded
        return _Buffer(tensor.clone())

    def download(self, buffer: _Buffer) -> torch.Tensor:
        return buffer.tensor

    def poison(self, nbytes: int) -> None:
        """There is nothing."""


@pytest.mark.parametrize(("off", "reason"), [(0.0, ""), (1.0, "output 0")])
def test_results_come_from_the_device_before_they_are_compared(
    monkeypatch: pytest.MonkeyPatch, off: float, reason: str
) -> None:
    role: Any = object.__new__(check.CheckRole)
    role._runner = _Apart()
    monkeypatch.setattr(check, "library_calls", lambda *_: [])
    spec = KernelSpec("next", Reference("def f(x): return x + 1, 2", "f"), ())
    got = role._compared(
        spec,
        lambda x: (x.double() + 1, 2),
        lambda x: (x + 1, 2),
        lambda x: (_Buffer(x.tensor + 1 + off), 2),
        [torch.ones(3)],
        {},
    )
    assert got.startswith(reason) if reason else got == ""
