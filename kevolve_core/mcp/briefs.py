"""Evaluations, runs and targets as JSON an agent can act on: medians in place of raw samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median
from typing import Any

from attrs import evolve

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Device, Evaluation, Measurement, Profile
from kevolve_core.serial import to_plain

__all__ = ["candidate_brief", "device_brief", "evaluation_brief", "profile_brief", "spec_brief"]


def evaluation_brief(evaluation: Evaluation) -> dict[str, Any]:
    """Verdict with all its details, stages, times with their evidence, speed-ups, and the profile."""
    return {
        "candidate": evaluation.candidate_id,
        "accepted": evaluation.accepted,
        "verdict": to_plain(evaluation.verdict),
        "score": evaluation.score,
        "evidence": evaluation.evidence.value if evaluation.evidence else None,
        "stages": [{"stage": s.stage, "outcome": s.outcome} for s in evaluation.stages],
        "measurements": [_measurement(m) for m in evaluation.measurements],
        "library_calls": list(evaluation.library_calls),
        "profile": None if evaluation.profile is None else profile_brief(evaluation.profile),
        "seed": evaluation.seed,
    }


def _measurement(m: Measurement) -> dict[str, Any]:
    return {
        "case": m.case,
        "phase": m.phase,
        "device": m.device,
        "evidence": m.evidence.value,
        "median_seconds": median(m.candidate) if m.candidate else None,
        "baselines_median_seconds": {name: median(s) for name, s in m.baselines.items() if s},
        "speedups": {name: to_plain(ratio) for name, ratio in m.ratios.items()},
        "floor_seconds": m.floor_seconds,
    }


def profile_brief(profile: Profile) -> dict[str, Any]:
    """Counters, roofline, bottleneck and hints."""
    plain: dict[str, Any] = to_plain(profile)
    return plain


def candidate_brief(candidate: Candidate, *, titles: bool = False) -> dict[str, Any]:
    """Sources and where they came from; ``titles``: with those of pages that its prompt left out, some of
    which may be confidential."""
    notes = dict(candidate.origin.notes)
    left = notes.get("left_out")
    if isinstance(left, (list, tuple)) and not titles:
        notes["left_out"] = [re.sub(r"^knowledge: .* \(", "knowledge (", str(each)) for each in left]
    return {
        "id": candidate.id,
        "language": candidate.language,
        "entry": candidate.entry,
        "files": dict(candidate.files),
        "parents": list(candidate.parents),
        "genome": to_plain(candidate.genome),
        "origin": to_plain(evolve(candidate.origin, notes=notes)),
    }


def device_brief(device: Device) -> dict[str, Any]:
    """What a kernel's author needs to know of a device."""
    return {
        "id": device.id,
        "name": device.name,
        "arch": device.target.arch,
        "capabilities": sorted(device.capabilities),
        "facts": _json(device.facts),
    }


def spec_brief(spec: KernelSpec) -> dict[str, Any]:
    """What is computed, on which inputs, how exactly."""
    return {
        "name": spec.name,
        "reference": spec.reference.source,
        "symbol": spec.reference.symbol,
        "kind": spec.reference.kind,
        "precision": to_plain(spec.precision),
        "cases": [
            {
                "name": case.name,
                "role": case.role,
                "weight": case.weight,
                "inputs": [
                    {"name": i.name, "dtype": i.dtype, "shape": list(i.shape)}
                    if i.shape is not None
                    else {"name": i.name, "value": i.value}
                    for i in case.inputs
                ],
            }
            for case in spec.cases
        ],
    }


def _json(value: Any) -> Any:
    """Facts as JSON values, whatever a backend put there."""
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json(each) for each in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
