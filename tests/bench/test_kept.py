"""Sweeps that go on with what an earlier run has done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from kept import Kept


def test_jobs_that_are_kept_are_not_done_again(tmp_path: Path) -> None:
    done: list[int] = []

    def work(job: tuple[int]) -> int:
        done.append(job[0])
        return 10 * job[0]

    file = tmp_path / "kept.jsonl"
    assert [gave for _, gave in Kept(file, sources=()).each(work, [(1,), (2,)])] == [10, 20]
    assert list(Kept(file, sources=()).each(work, [(2,), (3,)])) == [((2,), 20), ((3,), 30)]
    assert done == [1, 2, 3]


def test_jobs_end_with_the_time(tmp_path: Path) -> None:
    rows = Kept(tmp_path / "kept.jsonl", 0.0, ()).each(lambda job: job, [(1,), (2,)])
    with pytest.raises(SystemExit, match="2 of 2"):
        next(rows)
