"""What a conformance run found: the outcome of each check, and ``conformance.json``.

``conformance.json``, schema 1: ``schema``, ``backend``, ``conformant``, ``tiers``, ``evidence``, ``device``
(id, name, arch, or null), ``versions`` (kevolve, api, python, torch, the plugin's distribution), ``counts``
by outcome, ``stale`` (expected failures that are none), and ``checks``: ``id``, ``tier``, ``title``,
``outcome``, ``seconds``, and for what did not pass ``message`` (what, got, where, mend), ``reason`` and
``issue``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import field, frozen

from kevolve_core.errors import StoreError
from kevolve_core.model import freeze

__all__ = ["RESULT_FILE", "SCHEMA", "CheckReport", "Conformance", "Outcome", "write_result"]

RESULT_FILE = "conformance.json"
SCHEMA = 1


class Outcome(StrEnum):
    """What became of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # does not apply, or what it needs failed already; `message` says which
    EXPECTED_FAILURE = "expected_failure"  # listed in conformance.toml, and it fails
    UNEXPECTED_PASS = "unexpected_pass"  # listed, and it passes: the list is stale


@frozen
class CheckReport:
    """One check as it ended."""

    id: str
    tier: int
    title: str
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""
    reason: str = ""
    issue: str = ""

    @property
    def bad(self) -> bool:
        return self.outcome in (Outcome.FAILED, Outcome.UNEXPECTED_PASS)


@frozen
class Conformance:
    """The result of a run over one backend."""

    backend: str
    tiers: tuple[int, ...]
    checks: tuple[CheckReport, ...]
    stale: tuple[str, ...] = ()
    evidence: str = ""
    device: Mapping[str, str] | None = None
    versions: Mapping[str, str] = field(factory=dict, converter=freeze, hash=False)

    @property
    def conformant(self) -> bool:
        """Something was checked, nothing failed that was not expected to, and no expectation is stale."""
        ran = any(c.outcome is not Outcome.SKIPPED for c in self.checks)
        return ran and not self.stale and not any(c.bad for c in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Ids of the checks that failed, or passed against the list, in order."""
        return tuple(c.id for c in self.checks if c.bad)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        counts = Counter(c.outcome.value for c in self.checks)
        return {
            "schema": SCHEMA,
            "backend": self.backend,
            "conformant": self.conformant,
            "tiers": list(self.tiers),
            "evidence": self.evidence,
            "device": None if self.device is None else dict(self.device),
            "versions": dict(self.versions),
            "counts": {outcome.value: counts[outcome.value] for outcome in Outcome},
            "stale": list(self.stale),
            "checks": [_plain(c) for c in self.checks],
        }


def _plain(report: CheckReport) -> dict[str, Any]:
    said = {"message": report.message, "reason": report.reason, "issue": report.issue}
    return {
        "id": report.id,
        "tier": report.tier,
        "title": report.title,
        "outcome": report.outcome.value,
        "seconds": round(report.seconds, 4),
        **{key: text for key, text in said.items() if text},
    }


def write_result(result: Conformance, file: Path) -> None:
    """Write ``conformance.json``, whole or not at all. Raises StoreError where that cannot be done."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(result.plain(), indent=2) + "\n", encoding="utf-8")
        os.replace(scratch, file)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StoreError(
            "the conformance result cannot be written",
            got=error.strerror or str(error),
            where=str(file),
            mend="name a file in a folder that exists and can be written",
        ) from error
