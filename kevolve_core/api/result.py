"""`Result`: what a run delivers, read from its store, and the report that is written beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from kevolve_core.api.baseline import baseline_kernel, fastest_baseline
from kevolve_core.api.controls import closest, controls_of
from kevolve_core.api.parts import Place, yardsticks
from kevolve_core.bundle import export
from kevolve_core.errors import UnsupportedError
from kevolve_core.evolve.result import RunResult
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Device, Evaluation, Evidence, Measurement, Ratio, VerdictKind
from kevolve_core.report import ReportPaths, RunRecord, environment, headline, overall_speedup, write_report
from kevolve_core.store import EvaluationRow, RunStore

__all__ = ["Delivery", "Result", "gather", "write_result"]


@frozen
class Result:
    """The outcome of a run.

    Args:
        kernel: what to ship: the best candidate, or the fastest baseline where nothing surely beat it.
        improved: ``kernel`` is a candidate that beat every baseline with 95 % confidence.
        evaluation: what is known of the best candidate; where not ``improved``, of the one that came closest.
        speedup: of ``evaluation`` over the fastest baseline; None where nothing was timed.
        evidence: the class of every number here.
        reason: the outcome in one sentence.
        run: the run's folder, for `resume`, ``kevolve show`` and ``kevolve repro``.
        report: the files of the report.
        search: counts, trajectory, cost and why the search stopped.
    """

    spec: KernelSpec
    device: Device
    kernel: Candidate
    improved: bool
    evaluation: Evaluation | None
    speedup: Ratio | None
    evidence: Evidence | None
    reason: str
    run: Path
    report: ReportPaths
    search: RunResult = field(repr=False)

    @property
    def best(self) -> Candidate | None:
        """The best candidate, None when nothing beat the baseline."""
        return self.search.best

    @property
    def measurement(self) -> Measurement | None:
        """The latest measurement of the first timed case; `measurements` has all of them."""
        cases = self.spec.timed_cases
        return self.evaluation.measurement(cases[0].name) if self.evaluation and cases else None

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """Case name -> its latest measurement."""
        evaluation = self.evaluation
        found = {c.name: evaluation.measurement(c.name) for c in self.spec.cases} if evaluation else {}
        return {name: m for name, m in found.items() if m is not None}

    @property
    def confirmed(self) -> bool:
        """The best candidate passed confirmation in a fresh process and the holdout cases."""
        return self.search.confirmed

    @property
    def resumable(self) -> bool:
        """The run has not ended; `resume` goes on with it."""
        return self.search.resumable


@frozen
class Delivery:
    """All that a report and a `Result` need, read from the store."""

    record: RunRecord
    folder: Path
    standalone: str | None


def gather(store: RunStore, result: RunResult, where: Place, settings: Mapping[str, Any]) -> Delivery:
    """Decide what kernel the run delivers. Reads the store only."""
    spec = store.spec
    evaluation = result.evaluation or closest(store)
    kernel = result.best
    if kernel is None:
        name = fastest_baseline(spec, evaluation)
        stand_in = yardsticks(where, spec).get(name)
        kernel = stand_in or baseline_kernel(spec, name, where.backend.baselines(spec, where.device))
    record = RunRecord(
        spec=spec,
        device=where.device,
        result=result,
        kernel=kernel,
        evaluation=evaluation,
        examples=_examples(store),
        settings={key: settings[key] for key in ("backend", "generator", "policy", "seed", "budget")},
        controls=controls_of(store.path, spec) if settings.get("controls") else (),
        models=_models(store.path),
        degenerate=bool(settings.get("degenerate")),
        environment=environment(_distributions(where)),
    )
    return Delivery(record, store.path, _standalone(kernel, where))


def write_result(delivery: Delivery) -> Result:
    """Write the report into the run's folder. Raises StoreError where that cannot be done."""
    record = delivery.record
    speedup = overall_speedup(record.spec, record.evaluation) if record.evaluation is not None else None
    return Result(
        spec=record.spec,
        device=record.device,
        kernel=record.kernel,
        improved=record.improved,
        evaluation=record.evaluation,
        speedup=speedup.ratio if speedup else None,
        evidence=speedup.evidence if speedup else None,
        reason=headline(record),
        run=delivery.folder,
        report=write_report(record, delivery.folder, delivery.standalone),
        search=record.result,
    )


def _examples(store: RunStore) -> dict[str, str]:
    """Verdict kind -> the reason of its first failure in the search. Reads one evaluation a kind."""
    first: dict[VerdictKind, EvaluationRow] = {}
    wanted = set(store.counts()) - {VerdictKind.ACCEPTED.value}
    for step in store.steps():
        if len(first) == len(wanted):
            break
        row = step.evaluation
        if row is not None and row.verdict is not VerdictKind.ACCEPTED and row.reused_from is None:
            first.setdefault(row.verdict, row)
    found = {kind.value: store.evaluation("search", row.sequence) for kind, row in first.items()}
    return {kind: evaluation.verdict.reason for kind, evaluation in found.items() if evaluation is not None}


def _standalone(kernel: Candidate, where: Place) -> str | None:
    """The kernel as one file; None where its language or shape does not allow that."""
    try:
        asks = "kevolve_core.native" in kernel.files[kernel.entry]
        return export(kernel, where.backend.standalone_loader(kernel.language) if asks else "")
    except UnsupportedError:
        return None


def _models(run: Path) -> dict[str, Any]:
    if not (run / "llm").is_dir():
        return {}
    from kevolve_core.llm.summary import summary

    return summary(run)


def _distributions(where: Place) -> list[str]:
    names = [s.distribution for s in where.registry.statuses() if where.backend_name in s.backends]
    return [name for name in names if name]
