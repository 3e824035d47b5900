"""Whether the roofline leaves anything to gain."""

from __future__ import annotations

from statistics import median

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Evaluation

__all__ = ["at_floor"]


def at_floor(spec: KernelSpec, evaluation: Evaluation, headroom: float) -> bool:
    """On every timed case the median time is at most ``1 + headroom`` times the floor (compulsory bytes over
    measured bandwidth, plus launch). False where a case has no time or no floor."""
    measurements = [evaluation.measurement(case.name) for case in spec.timed_cases]
    return bool(measurements) and all(
        m is not None
        and bool(m.candidate)
        and m.floor_seconds > 0
        and median(m.candidate) <= m.floor_seconds * (1 + headroom)
        for m in measurements
    )
