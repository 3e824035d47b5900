"""``report.json``: a run as one document for machines."""

from __future__ import annotations

from statistics import median
from typing import Any

from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Evaluation, Evidence, Measurement
from kevolve_core.report.numbers import overall_speedup, quantity, ratio_plain
from kevolve_core.report.record import Control, RunRecord
from kevolve_core.serial import to_plain

__all__ = ["SCHEMA_VERSION", "document"]

SCHEMA_VERSION = 1


def document(record: RunRecord) -> dict[str, Any]:
    """Everything a report says, as JSON values. Every time, rate and speed-up carries its evidence.

    Wall-clock times of the search are ``measured`` on the host that searched.
    """
    result, at = record.result, record.result.best_at
    evidence = record.evidence
    return {
        "schema": SCHEMA_VERSION,
        "name": record.spec.name,
        "environment": dict(record.environment),
        "device": to_plain(record.device),
        "spec": _spec(record.spec),
        "degenerate": record.degenerate,
        "search": {
            **record.settings,
            "stopped": result.stopped,
            "reason": result.reason,
            "resumable": result.resumable,
            "seconds": quantity(result.seconds, "s", Evidence.MEASURED),
            "proposals": len(result.trajectory),
            "evaluations": result.evaluations,
            "duplicates": result.duplicates,
            "accepted": record.accepted,
            "failures": record.failures,
            "failure_examples": dict(record.examples),
            "tokens": result.tokens,
            "money": result.money,
        },
        "shares": [to_plain(share) for share in result.shares],
        "controls": [_control(record, control) for control in record.controls],
        "improved": record.improved,
        "confirmed": result.confirmed,
        "kernel": _kernel(record),
        "best_candidate": _evaluated(record.spec, record.evaluation) if record.evaluation else None,
        "until_best": {
            "seconds": quantity(at.seconds, "s", Evidence.MEASURED),
            "proposals": at.sequence + 1,
            "evaluations": at.evaluations,
            "tokens": at.tokens,
            "money": at.money,
        }
        if at is not None
        else None,
        "models": dict(record.models) or None,
        "trajectory": [
            {
                "sequence": point.sequence,
                "at_seconds": point.seconds,
                "candidate": point.candidate_id,
                "operator": point.operator,
                "verdict": point.verdict.value if point.verdict else None,
                "duplicate_of": point.reused_from,
                "score": point.score,
                "best": point.best,
                "evidence": evidence.value if evidence and point.score is not None else None,
            }
            for point in result.trajectory
        ],
    }


def _control(record: RunRecord, control: Control) -> dict[str, Any]:
    own = overall_speedup(record.spec, record.evaluation) if record.evaluation else None
    best = control.speedup
    return {
        "policy": control.name,
        "evaluations": control.evaluations,
        "finished": control.finished,
        "speedup": ratio_plain(best.ratio, best.evidence, ", ".join(dict.fromkeys(best.against)))
        if best
        else None,
        "search_against_it": control.against(own),
    }


def _spec(spec: KernelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "fingerprint": spec.fingerprint,
        "mode": spec.mode,
        "objective": spec.objective,
        "precision": to_plain(spec.precision),
        "cases": [_case(case) for case in spec.cases],
    }


def _case(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "role": case.role,
        "weight": case.weight,
        "init": dict(case.init),
        "inputs": [
            {"name": i.name, "shape": list(i.shape), "dtype": i.dtype}
            if i.shape is not None
            else {"name": i.name, "value": i.value}
            for i in case.inputs
        ],
    }


def _kernel(record: RunRecord) -> dict[str, Any]:
    kernel = record.kernel
    seen = record.evaluation.library_calls if record.evaluation and record.improved else ()
    return {
        "id": kernel.id,
        "is_baseline": not record.improved,
        "language": kernel.language,
        "entry": kernel.entry,
        "symbol": kernel.symbol or "ModelNew",
        "files": sorted(kernel.files),
        "genome": to_plain(kernel.genome) if kernel.genome is not None else None,
        "origin": to_plain(kernel.origin),
        "parents": list(kernel.parents),
        "libraries": {"declared": list(kernel.libraries), "seen": list(seen)},
    }


def _evaluated(spec: KernelSpec, evaluation: Evaluation) -> dict[str, Any]:
    speedup = overall_speedup(spec, evaluation)
    return {
        "id": evaluation.candidate_id,
        "verdict": to_plain(evaluation.verdict),
        "speedup": ratio_plain(speedup.ratio, speedup.evidence, ", ".join(dict.fromkeys(speedup.against)))
        | {"phase": speedup.phase, "device": speedup.device}
        if speedup
        else None,
        "stages": [
            {
                "stage": s.stage,
                "outcome": s.outcome,
                "seconds": quantity(s.seconds, "s", Evidence.MEASURED),
                "detail": to_plain(s.detail),
            }
            for s in evaluation.stages
        ],
        "measurements": [_measurement(m) for m in evaluation.measurements],
        "profile": to_plain(evaluation.profile) if evaluation.profile else None,
        "input_seed": evaluation.seed,
    }


def _measurement(m: Measurement) -> dict[str, Any]:
    def seconds(samples: tuple[float, ...]) -> dict[str, Any]:
        return quantity(median(samples), "s", m.evidence) | {"statistic": "median", "samples": list(samples)}

    return {
        "case": m.case,
        "phase": m.phase,
        "device": m.device,
        "evidence": m.evidence.value,
        "candidate": seconds(m.candidate),
        "baselines": {
            name: seconds(samples)
            | (
                {"speedup": ratio_plain(m.ratios[name], m.evidence, name)}
                if name in m.ratios
                else {"speedup": None}
            )
            for name, samples in m.baselines.items()
        },
        "best_baseline": m.best_baseline,
        "floor": quantity(m.floor_seconds, "s", Evidence.ESTIMATED),
    }
