"""Numbers of a report, each with its evidence; a speed-up exists only within one evidence and device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from kevolve_core.errors import KevolveError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Evaluation, Evidence, Measurement, Ratio

__all__ = [
    "Speedup",
    "failure_counts",
    "format_ratio",
    "format_seconds",
    "overall_speedup",
    "quantity",
    "ratio_plain",
]

_PHASES = ("confirm", "race", "quick")  # most trustworthy first


@frozen
class Speedup:
    """A speed-up over the fastest baseline and what it rests on."""

    ratio: Ratio
    evidence: Evidence
    phase: str
    against: tuple[str, ...]  # the fastest baseline of each timed case
    device: str


def overall_speedup(spec: KernelSpec, evaluation: Evaluation) -> Speedup | None:
    """Weighted geometric mean, over the timed cases, of the speed-up over each case's fastest baseline.

    It uses the most trustworthy phase that has every timed case. The interval combines the cases' own
    intervals in log space as independent errors; for one case it is that case's bootstrap interval.

    Returns:
        None unless the evaluation was accepted and every timed case has a baseline.

    Raises:
        KevolveError: the cases' numbers differ in evidence or device, so that no speed-up exists.
    """
    if not evaluation.accepted:
        return None
    for phase in _PHASES:
        found = [(case, evaluation.measurement(case.name, phase)) for case in spec.timed_cases]
        pairs = [(case.weight, m, m.best_ratio) for case, m in found if m is not None]
        if not pairs or len(pairs) < len(found) or any(r is None for _, _, r in pairs):
            continue
        measurements = [m for _, m, _ in pairs]
        _require_one_class(measurements)
        return Speedup(
            ratio=_geomean([(w, r) for w, _, r in pairs if r is not None]),
            evidence=measurements[0].evidence,
            phase=phase,
            against=tuple(m.best_baseline for m in measurements),
            device=measurements[0].device,
        )
    return None


def _require_one_class(measurements: Sequence[Measurement]) -> None:
    classes = {(m.evidence.value, m.device) for m in measurements}
    if len(classes) > 1:
        raise KevolveError(
            "a speed-up needs all its numbers from one device and of one evidence",
            got="; ".join(f"{e} on {d}" for e, d in sorted(classes)),
            mend="evaluate every case again on one device",
        )


def _geomean(weighted: Sequence[tuple[float, Ratio]]) -> Ratio:
    total = sum(weight for weight, _ in weighted)
    centre = sum(w * math.log(r.value) for w, r in weighted) / total
    below = math.sqrt(sum((w * math.log(r.value / r.low)) ** 2 for w, r in weighted)) / total
    above = math.sqrt(sum((w * math.log(r.high / r.value)) ** 2 for w, r in weighted)) / total
    return Ratio(
        value=math.exp(centre),
        low=math.exp(centre - below),
        high=math.exp(centre + above),
        samples=min(r.samples for _, r in weighted),
    )


def failure_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """What was not accepted of evaluations counted by verdict, in words, most frequent first."""
    failed = [(kind.replace("_", " "), count) for kind, count in counts.items() if kind != "accepted"]
    return dict(sorted(failed, key=lambda item: (-item[1], item[0])))


def quantity(value: float, unit: str, evidence: Evidence) -> dict[str, Any]:
    """A number of ``report.json``."""
    return {"value": value, "unit": unit, "evidence": evidence.value}


def ratio_plain(ratio: Ratio, evidence: Evidence, against: str) -> dict[str, Any]:
    """A speed-up of ``report.json`` with its 95 % interval."""
    return {
        "value": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "confidence": 0.95,
        "samples": ratio.samples,
        "unit": "x",
        "evidence": evidence.value,
        "against": against,
    }


def format_ratio(ratio: Ratio, evidence: Evidence | str) -> str:
    """``1.84x [1.80, 1.88] measured``."""
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}] {Evidence(evidence).value}"


def format_seconds(seconds: float) -> str:
    """Three significant digits in the unit a reader expects: ``812 ns``, ``13.1 µs``, ``4.52 ms``."""
    for scale, unit in ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms")):
        if seconds < 999.5 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"
