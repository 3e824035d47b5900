"""What a report is made from: one run as plain data, whichever store or process it came from."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from attrs import field, frozen

from kevolve_core.evolve.result import RunResult
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Device, Evaluation, Evidence, freeze
from kevolve_core.report.numbers import Speedup

__all__ = ["Control", "RunRecord", "environment"]


@frozen
class Control:
    """What the budget of a search came to without search.

    Args:
        name: the control's policy.
        evaluations: paid.
        finished: it ended; else it was stopped.
        speedup: of its best candidate over the fastest baseline, None where none was accepted and timed.
        capped: the run's cap on tokens or money ended it before it had as many evaluations as the search.
    """

    name: str
    evaluations: int
    finished: bool
    speedup: Speedup | None
    capped: bool = False

    def against(self, speedup: Speedup | None) -> str:
        """How the search's ``speedup`` stands: ``beaten`` where its interval lies above this one's value and
        its value above this one's interval, ``lost`` the other way round, else ``no difference``. Against one
        that a cap ended nothing is said: its budget was not the search's."""
        if self.capped:
            return "not comparable"
        if speedup is None or self.speedup is None:
            return "no difference" if speedup is self.speedup else "lost" if speedup is None else "beaten"
        ours, theirs = speedup.ratio, self.speedup.ratio
        if ours.low > theirs.value and ours.value > theirs.high:
            return "beaten"
        return "lost" if theirs.low > ours.value and theirs.value > ours.high else "no difference"


@frozen
class RunRecord:
    """A run, finished or not.

    Args:
        result: what the run came to.
        kernel: what the run delivers: its best candidate, or the fastest baseline where nothing beat it.
        evaluation: what is known of the best candidate, also of one that lost to the baseline.
        examples: verdict kind -> the reason of the first such failure.
        settings: what the run was started with (``policy``, ``generator``, ``seed``, ``budget``).
        controls: what its controls came to, where they were run.
        models: what language models did (`kevolve_core.llm.summary`), {} where none was asked.
        degenerate: the spec accepts trivial answers and was run all the same: left out of every aggregate.
    """

    spec: KernelSpec
    device: Device
    result: RunResult
    kernel: Candidate
    evaluation: Evaluation | None = None
    examples: Mapping[str, str] = field(factory=dict, converter=freeze, hash=False)
    settings: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    models: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    degenerate: bool = False
    environment: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    controls: tuple[Control, ...] = ()

    @property
    def improved(self) -> bool:
        """The kernel is a candidate that beat every baseline; otherwise it is the fastest baseline."""
        return self.result.best is not None

    @property
    def evidence(self) -> Evidence | None:
        """The class of the run's scores: a run has one device and so one class."""
        return self.evaluation.evidence if self.evaluation is not None else None

    @property
    def accepted(self) -> int:
        """Paid evaluations that were accepted."""
        return self.result.counts.get("accepted", 0)

    @property
    def failures(self) -> dict[str, int]:
        """Verdict kind -> paid evaluations that failed so, most frequent first."""
        failed = [(kind, count) for kind, count in self.result.counts.items() if kind != "accepted"]
        return dict(sorted(failed, key=lambda item: (-item[1], item[0])))


def environment(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """Versions, platform and date, for a report. ``distributions`` are named beside Kevolve's and torch's."""
    versions = {}
    for name in sorted({"kevolve", "torch", *distributions}):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }
