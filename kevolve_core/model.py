"""The nouns of Kevolve as frozen data: what flows from a candidate to its evidence.

Nothing here computes, imports torch or knows a target. Times are seconds, sizes bytes, rates per second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, frozen

__all__ = [
    "Artifact",
    "Candidate",
    "Device",
    "Evaluation",
    "Evidence",
    "Measurement",
    "Origin",
    "Profile",
    "Ratio",
    "Roofline",
    "StageRecord",
    "Target",
    "Verdict",
    "VerdictKind",
    "content_hash",
    "freeze",
]


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a JSON-like ``value`` (sorted keys), the name of content everywhere in Kevolve."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


def freeze(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A read-only copy of a mapping (attrs converter)."""
    return MappingProxyType(dict(value or {}))


def _mapping() -> Any:
    return field(factory=dict, converter=freeze, hash=False)


class Evidence(StrEnum):
    """How a number was obtained. It is stored and printed beside every number."""

    MEASURED = "measured"  # ran on the named device
    SIMULATED = "simulated"  # a timing simulator
    EMULATED = "emulated"  # executed instruction by instruction: correctness, no time
    ESTIMATED = "estimated"  # analytic model, uncalibrated
    INTERPRETED = "interpreted"  # source semantics only
    COMPILED = "compiled"  # a compiler's own report


class VerdictKind(StrEnum):
    """Why a candidate was accepted or not. Every failure is a recorded row."""

    ACCEPTED = "accepted"
    COMPILE_ERROR = "compile_error"
    WRONG_RESULT = "wrong_result"
    CRASH = "crash"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    RULE_VIOLATION = "rule_violation"
    UNSUPPORTED = "unsupported"


@frozen
class Verdict:
    """Accepted or not, and why.

    Args:
        kind: the closed classification.
        reason: one line for a person.
        stage: name of the evaluation stage that decided.
        detail: what a generator can act on: ``case``, ``distribution``, ``seed``, ``index``, ``got``,
            ``expected``, ``error``, ``bound``, ``log``, ``signal`` … (JSON values only).
    """

    kind: VerdictKind
    reason: str = ""
    stage: str = ""
    detail: Mapping[str, Any] = _mapping()

    @property
    def accepted(self) -> bool:
        return self.kind is VerdictKind.ACCEPTED


@frozen
class Origin:
    """Where a candidate came from: generator's name, its operator (``draft``, ``mutate``, …), free notes."""

    generator: str = "user"
    operator: str = "given"
    notes: Mapping[str, Any] = _mapping()


@frozen
class Candidate:
    """A small set of source files with one entry: immutable, named by the hash of its content.

    Args:
        files: relative path -> text.
        entry: the Python module among ``files`` that defines ``ModelNew`` (constructor of the reference's
            ``Model``) or a function with the reference's signature.
        language: name under which a plugin registered the language (``cpp``, ``triton``, …).
        symbol: what the entry exports; empty means ``ModelNew``, else the reference's own name.
        parents: ids of the candidates it was made from.
        genome: the generator's own JSON description of the point it chose, if it has one.
        libraries: library calls it declares (``aten::mm``, …), reported beside every result.
    """

    files: Mapping[str, str] = field(converter=freeze, hash=False)
    entry: str
    language: str
    symbol: str = ""
    parents: tuple[str, ...] = ()
    genome: Mapping[str, Any] | None = field(default=None, hash=False)
    libraries: tuple[str, ...] = ()
    origin: Origin = field(factory=Origin, eq=False)
    id: str = field(init=False)

    @id.default
    def _make_id(self) -> str:
        body = {
            "files": dict(self.files),
            "entry": self.entry,
            "language": self.language,
            "symbol": self.symbol,
        }
        return content_hash(body)[:16]

    def with_origin(self, origin: Origin, parents: tuple[str, ...] | None = None) -> Candidate:
        return evolve(self, origin=origin, parents=self.parents if parents is None else parents)


@frozen
class Target:
    """What a compiler compiles for: backend, architecture (``x86-64-v4``, ``sm_90a``) and options."""

    backend: str
    arch: str
    options: Mapping[str, Any] = _mapping()


@frozen
class Device:
    """One device that a probe found.

    Args:
        id: stable name within the backend (``cpu:0``).
        backend: the backend's registered name.
        name: the vendor's product name.
        target: what to compile for.
        capabilities: subset of the manifest's that this device has.
        shares_host: compiling on the host disturbs timing on this device (true for a CPU).
        facts: caches (bytes), cores, measured rates, … with units in the key names.
    """

    id: str
    backend: str
    name: str
    target: Target
    capabilities: frozenset[str] = frozenset()
    shares_host: bool = False
    facts: Mapping[str, Any] = _mapping()


@frozen
class Artifact:
    """What a compiler made of a candidate for one case and target.

    Args:
        key: content hash over source, options, toolchain and target; equal keys mean equal binaries.
        candidate_id: whose.
        target: for what.
        binaries: file of the candidate -> absolute path of what was built from it.
        facts: registers, spills, shared memory, occupancy, compile seconds (units in the key names).
        diagnostics: the compiler's warnings.
        cached: it came from the cache.
    """

    key: str
    candidate_id: str
    target: Target
    binaries: Mapping[str, str] = _mapping()
    facts: Mapping[str, Any] = _mapping()
    diagnostics: str = ""
    cached: bool = False


@frozen
class Ratio:
    """A speed-up (baseline time over candidate time) with its bootstrap interval at 95 %."""

    value: float
    low: float
    high: float
    samples: int


@frozen
class Measurement:
    """Raw paired samples of a candidate and its baselines on one case.

    Args:
        case: the case's name.
        device: the device's id and name.
        evidence: how the times were obtained (one class for all sides).
        phase: ``quick``, ``race`` or ``confirm``.
        candidate: seconds per call, in call order.
        baselines: name -> seconds per call, sample ``i`` taken in the same round as ``candidate[i]``.
        ratios: name -> paired ratio baseline/candidate.
        best_baseline: the name of the fastest baseline by median.
        floor_seconds: compulsory bytes over measured bandwidth plus launch.
    """

    case: str
    device: str
    evidence: Evidence
    phase: str
    candidate: tuple[float, ...]
    baselines: Mapping[str, tuple[float, ...]] = _mapping()
    ratios: Mapping[str, Ratio] = _mapping()
    best_baseline: str = ""
    floor_seconds: float = 0.0

    @property
    def best_ratio(self) -> Ratio | None:
        """Ratio against the fastest baseline, or None where there is no baseline."""
        return self.ratios.get(self.best_baseline)


@frozen
class Roofline:
    """Position under the roofline: compulsory work, measured ceilings, and the bound they give."""

    bytes: float
    flops: float
    peak_bytes_per_s: float
    peak_flops_per_s: float
    bound_seconds: float
    fraction: float  # bound_seconds / achieved seconds, 1.0 is at the roof


@frozen
class Profile:
    """Counters and what they mean.

    ``bottleneck`` is one of ``memory``, ``compute``, ``latency``, ``balanced``, ``unknown``. ``hints`` are
    sentences that a generator can act on, each naming the counter it rests on.
    """

    evidence: Evidence
    counters: Mapping[str, float] = _mapping()
    roofline: Roofline | None = None
    bottleneck: str = "unknown"
    hints: tuple[str, ...] = ()


@frozen
class StageRecord:
    """One stage of an evaluation: its name, wall seconds and outcome (``passed`` or a verdict kind)."""

    stage: str
    seconds: float
    outcome: str
    detail: Mapping[str, Any] = _mapping()


@frozen
class Evaluation:
    """All that is known of one candidate after the stages it reached.

    Args:
        candidate_id: whose.
        verdict: accepted or why not.
        stages: the record of each stage that ran, in order.
        measurements: raw samples a case and phase.
        score: the objective, higher is better: geomean over tune cases, by weight, of the speed-up over the
        best
            baseline; None unless accepted and timed.
        evidence: the class of ``score``.
        profile: where one was taken.
        library_calls: library operators the candidate was seen to call.
        seed: the secret input seed, disclosed with the verdict.
        seconds: wall time the evaluation took.
    """

    candidate_id: str
    verdict: Verdict
    stages: tuple[StageRecord, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    score: float | None = None
    evidence: Evidence | None = None
    profile: Profile | None = None
    library_calls: tuple[str, ...] = ()
    seed: int = 0
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.verdict.accepted

    def stage(self, name: str) -> StageRecord | None:
        """The record of a stage, None where it was not reached."""
        return next((record for record in self.stages if record.stage == name), None)

    @property
    def remarks(self) -> Mapping[str, str]:
        """What the runner said about how it made the candidate's launches; empty where it said nothing."""
        found = (record.detail.get("remarks") for record in self.stages)
        return next((freeze(remarks) for remarks in found if remarks), freeze(None))

    def measurement(self, case: str, phase: str | None = None) -> Measurement | None:
        """The latest measurement of ``case`` (of ``phase`` where named)."""
        for m in reversed(self.measurements):
            if m.case == case and (phase is None or m.phase == phase):
                return m
        return None
