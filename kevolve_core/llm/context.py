"""From a proposal to the parts of its prompt."""

from __future__ import annotations

import difflib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median
from typing import Any, NamedTuple

from attrs import frozen

from kevolve_core.interfaces import Proposal
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec
from kevolve_core.llm.parts import Part, template
from kevolve_core.model import Candidate, Device, Evaluation
from kevolve_core.taint import NOTED, sources

__all__ = ["Knowledge", "Sibling", "Writer", "role_of", "source_taint"]

_LOG_LINES = 80  # as many as a compiler's log is trimmed to by backends (estimated)
_DIFF_LINES = 60  # of a sibling (estimated)
_FACT = 400  # characters of a device's fact (estimated)
_FENCES = {".py": "python", ".cpp": "cpp", ".cc": "cpp", ".cu": "cuda", ".hip": "hip", ".h": "cpp"}
#: Language -> suffix of its native file; languages without one live in the Python entry.
_NATIVE = {"cpp": ".cpp", "cuda": ".cu", "hip": ".hip"}
_DIRECTIONS = template("directions").splitlines()


@frozen
class Knowledge:
    """A retrieved page as the prompt shows it; ``taint`` is not empty where it is confidential."""

    title: str
    body: str
    score: float = 0.0
    taint: frozenset[str] = frozenset()


@frozen
class Sibling:
    """An earlier child of the same parents (or an earlier draft), with its evaluation."""

    candidate: Candidate
    evaluation: Evaluation


class _Fence(NamedTuple):
    quote: str
    language: str


def role_of(context: Proposal, language: str) -> str:
    """What is asked of the model: ``draft``, ``repair``, ``improve`` or ``port``, by what the context
    holds."""
    if not context.parents or context.operator == "draft":
        return "draft"
    first = context.parents[0]
    if first.language != language:
        return "port"
    evaluation = context.evaluations.get(first.id)
    return "improve" if evaluation is None or evaluation.accepted else "repair"


def source_taint(candidate: Candidate, backend_taint: frozenset[str]) -> frozenset[str]:
    """Confidential sources that a candidate's source derives from. The user's own kernels derive from none;
    what a generator made derives from the backend, unless it wrote down from what, and from its parents'
    sources."""
    own = NOTED in candidate.origin.notes or candidate.origin.generator == "user"
    return sources(candidate) | (frozenset() if own else backend_taint)


class Writer:
    """Writes the parts of prompts for one spec on one device.

    Args:
        spec: what to compute.
        device: for what.
        language: to write in.
        backend_taint: what derives from the backend carries it; empty for a backend that is not
            confidential.
    """

    def __init__(
        self, spec: KernelSpec, device: Device, language: str, backend_taint: frozenset[str] = frozenset()
    ) -> None:
        self._spec, self._device, self._language = spec, device, language
        self._taint = backend_taint
        self.entry = "kernel.py"
        suffix = _NATIVE.get(language, "")
        self.native = f"kernel{suffix}" if suffix else ""

    def system(self) -> Part:
        """The contract and the form of a reply: the same for every prompt of a run, so that servers can keep
        it in their cache."""
        reference = self._spec.reference
        known = self._language if self._language in ("cpp", "triton") else "other"
        contract = template(f"languages/{known}", entry=self.entry, language=self._language)
        text = template(
            "system",
            language=self._language,
            entry=self.entry,
            native=self.native,
            fence=_FENCES.get(PurePosixPath(self.native).suffix, ""),
            kind=reference.kind,
            symbol=reference.symbol,
            language_contract=contract,
        )
        return Part("contract", text)

    def parts(
        self, context: Proposal, role: str, siblings: Sequence[Sibling], pages: Sequence[Knowledge]
    ) -> list[Part]:
        """All parts but the first, whoever may see them."""
        parts = [self._task(), self._target()]
        shown = [] if role == "draft" else list(context.parents[:2])
        for n, parent in enumerate(shown):
            parts += self._parent(parent, context.evaluations.get(parent.id), first=n == 0, role=role)
        base = shown[0] if shown else None
        parts += [self._sibling(each, n, base) for n, each in enumerate(siblings)]
        parts += [_page(page, n) for n, page in enumerate(pages)]
        parts.append(self._goal(context, role, len(shown)))
        return parts

    def _task(self) -> Part:
        spec = self._spec
        cases = [
            {
                "name": case.name,
                "timed": case.role == "tune" and case.weight > 0,
                "weight": f"{case.weight:g}",
                "inputs": ", ".join(_input(i) for i in case.inputs) or "as the reference's own get_inputs()",
                "init": ", ".join(f"{k}={v!r}" for k, v in case.init.items()),
            }
            for case in _shown(spec.cases)
        ]
        calls = spec.options.get("library_calls", "")
        source = spec.reference.source.strip()
        return Part(
            "task", template("task", spec=spec, source=source, cases=cases, library_calls=calls), order=1
        )

    def _target(self) -> Part:
        device = self._device
        facts = [(name, _fact(value)) for name, value in sorted(device.facts.items())]
        text = template("target", device=device, facts=[f for f in facts if f[1]])
        return Part("target facts", text, value=5.0, order=2, taint=self._taint)

    def _parent(
        self, parent: Candidate, evaluation: Evaluation | None, *, first: bool, role: str
    ) -> list[Part]:
        taint = source_taint(parent, self._taint)
        order = 10 if first else 20
        name = "parent" if first else "second parent"
        title = "The candidate to " + {"repair": "repair", "port": "port"}.get(role, "improve")
        title = title if first else "A second candidate"
        score = None if evaluation is None or evaluation.score is None else _score(evaluation)
        files = [(n, t.rstrip("\n"), _fence(n, t)) for n, t in parent.files.items()]
        text = template("parent", title=title, candidate=parent, score=score, files=files)
        # Without the first parent there is nothing to repair or improve; a second one is a luxury.
        parts = [Part(name, text, None if first else 3.0, order, taint)]
        if evaluation is None:
            return parts
        told = taint | self._taint
        verdict = Part(
            f"verdict of the {name}",
            _verdict(evaluation),
            8.0 if first else 2.0,
            order + 1,
            told,
            shrinks=True,
        )
        parts.append(verdict)
        if evaluation.profile is not None:
            text = _profile(evaluation)
            parts.append(Part(f"profile of the {name}", text, 4.0 if first else 1.5, order + 2, told))
        return parts

    def _sibling(self, sibling: Sibling, rank: int, parent: Candidate | None) -> Part:
        candidate, evaluation = sibling.candidate, sibling.evaluation
        outcome = (
            _score(evaluation) if evaluation.accepted else evaluation.verdict.kind.value.replace("_", " ")
        )
        if not evaluation.accepted and evaluation.verdict.reason:
            outcome += f" ({_line(evaluation.verdict.reason, 160)})"
        diff = "" if parent is None else _diff(parent, candidate)
        text = template("sibling", candidate=candidate, outcome=outcome, diff=diff)
        taint = source_taint(candidate, self._taint) | self._taint
        return Part(f"sibling {candidate.id}", text, 1.0 - rank / 100, 30 + rank, taint)

    def _goal(self, context: Proposal, role: str, parents: int) -> Part:
        rng = random.Random(f"{context.seed}:{context.sequence}:{context.attempt}")
        plain = role == "draft" and context.sequence == 0 and context.attempt == 0
        direction = _DIRECTIONS[0] if plain else rng.choice(_DIRECTIONS)
        text = template(f"goal_{role}", direction=direction, parents=parents, language=self._language)
        return Part("goal", text, order=90)


def _shown(cases: Iterable[Case]) -> list[Case]:
    """Tune cases only: a kernel shall not be written for the holdout's shapes."""
    return [case for case in cases if case.role == "tune"]


def _input(given: InputSpec) -> str:
    if given.shape is None:
        return f"{given.name}={given.value!r}"
    d = given.distribution
    layouts = "" if given.layouts == ("contiguous",) else f", {' or '.join(given.layouts)}"
    ends = "" if d.low is None and d.high is None else f" {d.low}..{d.high}"
    kind = "" if d.kind == "normal" and not ends else f", {d.kind}{ends}"
    source = f" of {d.source}" if d.source else ""
    return f"{given.name} {list(given.shape)} {given.dtype}{kind}{source}{layouts}"


def _fact(value: Any) -> str:
    """A fact in one line; what is too long to be one is left out."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, default=_plain)
    return text if len(text) <= _FACT else ""


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else sorted(value)


def _score(evaluation: Evaluation) -> str:
    evidence = f" ({evaluation.evidence.value})" if evaluation.evidence else ""
    score = (
        "not timed" if evaluation.score is None else f"{evaluation.score:.2f} times the best baseline's speed"
    )
    return score + evidence


def _verdict(evaluation: Evaluation) -> str:
    verdict = evaluation.verdict
    detail = dict(verdict.detail)
    log = _trimmed(str(detail.pop("log", "") or ""))
    details = [(name, _line(str(_rounded(value)), 300)) for name, value in sorted(detail.items())]
    return template(
        "verdict",
        accepted=verdict.accepted,
        kind=verdict.kind.value.replace("_", " "),
        stage=verdict.stage,
        reason=_line(verdict.reason, 600),
        details=details,
        log=log,
        timing=_timing(evaluation),
    )


def _timing(evaluation: Evaluation) -> list[str]:
    rows = []
    for case in dict.fromkeys(m.case for m in evaluation.measurements):
        m = evaluation.measurement(case)
        if m is None or not m.candidate:
            continue
        row = f"case {case}: {_time(median(m.candidate))}"
        others = [f"{name} {_time(median(times))}" for name, times in m.baselines.items() if times]
        row += f", against {', '.join(others)}" if others else ""
        if m.floor_seconds > 0:
            row += f"; no kernel can beat {_time(m.floor_seconds)} (compulsory traffic)"
        rows.append(f"{row} ({m.evidence.value})")
    return rows


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.4g} µs"


def _profile(evaluation: Evaluation) -> str:
    profile = evaluation.profile
    assert profile is not None
    roof = profile.roofline
    line = "" if roof is None else f"It reaches {roof.fraction:.0%} of the roofline's bound."
    counters = [(name, f"{value:.4g}") for name, value in sorted(profile.counters.items())]
    return template("profile", profile=profile, roofline=line, counters=counters)


def _page(page: Knowledge, rank: int) -> Part:
    text = template("knowledge", title=page.title, body=page.body.strip())
    return Part(f"knowledge: {page.title}", text, 0.9 - rank / 100, 40 + rank, page.taint)


def _fence(name: str, text: str) -> _Fence:
    quote = "```"
    while quote in text:
        quote += "`"
    return _Fence(quote, _FENCES.get(PurePosixPath(name).suffix, ""))


def _diff(parent: Candidate, child: Candidate) -> str:
    lines: list[str] = []
    for name in sorted({*parent.files, *child.files}):
        old, new = parent.files.get(name, "").splitlines(), child.files.get(name, "").splitlines()
        lines += difflib.unified_diff(old, new, name, name, lineterm="", n=1)
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"… {len(lines) - _DIFF_LINES} lines left out …"]
    return "\n".join(lines)


def _trimmed(log: str) -> str:
    lines = [_line(line, 300) for line in log.strip().splitlines()]
    if len(lines) <= _LOG_LINES:
        return "\n".join(lines)
    head = _LOG_LINES * 3 // 4
    cut = len(lines) - _LOG_LINES
    return "\n".join([*lines[:head], f"… {cut} lines left out …", *lines[-(_LOG_LINES - head) :]])


def _line(text: str, longest: int) -> str:
    text = " ".join(text.split()) if "\n" in text else text
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
