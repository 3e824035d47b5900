"""Roofline position, bottleneck class and hints, on synthetic numbers."""

from collections.abc import Mapping

import pytest

from kevolve_core.interfaces import Work
from kevolve_core.model import Profile
from kevolve_cpu.counters import parse_perf, read_counters, software_counters
from kevolve_cpu.peaks import Peaks
from kevolve_cpu.profiler import classify, explain

SOME_WORK = Work(1e9, 1e9)
PEAKS = Peaks(10e9, 16e9, 14e9, 200e9, 1e-6, 1e-6, threads=2, date="2026-01-01")


@pytest.mark.parametrize(
    ("work", "seconds", "expected"),
    [
        (Work(bytes=16e9, flops=1e9), 1.25, "memory"),
        (Work(bytes=1e9, flops=200e9), 1.25, "compute"),
        (Work(bytes=16e9, flops=180e9), 1.25, "balanced"),
        (Work(bytes=16e9, flops=1e9), 10.0, "latency"),
        (Work(bytes=1000, flops=1000), 2e-6, "latency"),
    ],
)
def test_the_class_follows_the_share_of_the_ceilings(work: Work, seconds: float, expected: str) -> None:
    assert expected == classify(work, seconds, PEAKS)


def test_the_bound_is_the_slower_of_memory_and_compute() -> None:
    roofline = explain(Work(bytes=16e9, flops=400e9), 4.0, PEAKS, {}).roofline
    assert roofline is not None
    assert (roofline.bound_seconds, roofline.fraction) == (2.0, 0.5)


def test_achieved_rates_are_counters() -> None:
    profile = explain(Work(bytes=8e9, flops=50e9), 1.0, PEAKS, {})
    assert (profile.counters["achieved_gb_per_s"], profile.counters["achieved_gflop_per_s"]) == (8.0, 50.0)


def _hints(counters: Mapping[str, float], work: Work = SOME_WORK, seconds: float = 1.0) -> str:
    profile: Profile = explain(work, seconds, PEAKS, counters)
    return "\n".join(profile.hints)


@pytest.mark.parametrize(
    ("counters", "word"),
    [
        ({"cpu_seconds": 1.0}, "busy_threads 1.0 of 2"),
        ({"minor_faults": 1e5}, "minor_faults 100000"),
        ({"cycles": 1e9, "instructions": 5e8}, "instructions_per_cycle 0.50"),
        ({"cache_misses": 9.0, "cache_references": 10.0}, "cache_misses are 90%"),
    ],
)
def test_a_hint_names_its_counter(counters: Mapping[str, float], word: str) -> None:
    assert word in _hints(counters)
    assert word not in _hints({})


def test_memory_bound_far_from_the_roof_suggests_nontemporal_stores() -> None:
    assert "non-temporal stores copy 1.6 times" in _hints({}, Work(bytes=16e9, flops=0), 1.8)


def test_at_the_roof_little_is_left() -> None:
    assert "little is left" in _hints({}, Work(bytes=16e9, flops=0), 1.1)


def test_faster_than_the_ceilings_is_said() -> None:
    assert "faster than the measured ceilings" in _hints({}, Work(bytes=16e9, flops=0), 0.5)


def test_missing_hardware_counters_are_said() -> None:
    assert "no hardware counters" in _hints({})
    assert "no hardware counters" not in _hints({"cycles": 1.0, "instructions": 1.0})


def test_perf_output_is_read() -> None:
    text = "1000;;cycles;5;100.00;;\n2500;;instructions:u;5;50.00;2.5;insn per cycle\n"
    assert dict(parse_perf(text).counts) == {"cycles": 1000.0, "instructions": 2500.0}


def test_unsupported_counters_are_said() -> None:
    assert "cycles not supported" in parse_perf("<not supported>;;cycles;0;100.00;;\n").unavailable


def test_a_missing_perf_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "perf is not installed" in read_counters(1, 0.01).unavailable


def test_reading_counters_gives_counts_or_the_reason() -> None:
    import os

    found = read_counters(os.getpid(), 0.05)
    assert bool(found.counts) != bool(found.unavailable)


def test_software_counters_grow() -> None:
    before = software_counters()
    sum(range(200_000))
    after = software_counters()
    assert all(after[name] >= before[name] for name in before)
    assert after["cpu_seconds"] > before["cpu_seconds"]
