"""Cores set apart for measuring."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from kevolve_core.bench.cores import apart, on, without

OWN = os.sched_getaffinity(0)


def test_a_large_machine_sets_two_cores_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4, 20)))
    assert apart() == (18, 19)


def test_a_small_machine_sets_none_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    assert apart() == ()


@pytest.mark.skipif(len(OWN) < 2, reason="one core cannot be divided")
def test_threads_that_are_started_meanwhile_keep_off_the_cores() -> None:
    one = max(OWN)
    with without([one]), ThreadPoolExecutor(1) as threads:
        assert threads.submit(os.sched_getaffinity, 0).result() == OWN - {one}
        with on([one]):
            assert os.sched_getaffinity(0) == {one}
        assert os.sched_getaffinity(0) == OWN - {one}
    assert os.sched_getaffinity(0) == OWN


def test_no_cores_change_nothing() -> None:
    with without(()), on(()):
        assert os.sched_getaffinity(0) == OWN
