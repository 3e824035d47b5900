"""Distils a stored run into skills: what won, what helped, and which fix cured which failure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.experience.signature import signature_of
from kevolve_core.knowledge.experience.trials import Cure, Trial, cures, effects, trials
from kevolve_core.knowledge.operators import families, operators_of
from kevolve_core.knowledge.page import Page
from kevolve_core.model import Candidate, Device, Evaluation, content_hash
from kevolve_core.store import RunStore
from kevolve_core.taint import sources

__all__ = ["Learned", "distill", "tainted"]

_SOURCE, _DIFF, _LOG = 3500, 60, 700  # characters, lines, characters that go into a page (estimated)
_CURES, _EFFECTS = 5, 8  # a run (estimated)
#: Names of files and lines in a message, which differ between two cases of one failure.
_PLACES = re.compile(r"(?:/[\w.\-]+)+|0x[0-9a-f]+|\b\d+\b")


@frozen
class Learned:
    """What a run is learned from.

    Args:
        run: its name, for a person.
        backend: its backend's name.
        target: the target that pages of it are about.
        device: where it ran, None where that is not known any more.
        confidential: its backend is, so everything distilled from it is.
    """

    run: str
    backend: str
    target: str
    device: Device | None = None
    confidential: bool = False


def distill(store: RunStore, learned: Learned) -> tuple[Page, ...]:
    """Skills under review: one about the winner, one a failure that was cured.

    They are confidential where the backend is, or any candidate of the run derives from confidential
    knowledge (`tainted`), or the run's settings say so. Who may see a skill has to be allowed to see all that
    it derives from (`Page.taint`).
    """
    found = trials(store)
    secret = learned.confidential or bool(store.settings.get("confidential"))
    secret = secret or any(tainted(trial.candidate) for trial in found)
    derived = frozenset({f"backend:{learned.backend}"} if learned.confidential else ())
    derived = derived.union(*(sources(trial.candidate) for trial in found))
    pages = [*_winner(store, found, learned), *_cured(store.spec, found, learned)]
    return tuple(page.tainted(*derived) if secret else page for page in pages)


def tainted(candidate: Candidate) -> bool:
    """A candidate derives from something confidential, as its generator noted."""
    return bool(candidate.origin.notes.get("confidential")) or bool(sources(candidate))


def _winner(store: RunStore, found: Sequence[Trial], learned: Learned) -> Iterable[Page]:
    evaluation = _final(store)
    if evaluation is None or evaluation.score is None:
        return
    spec, score = store.spec, evaluation.score
    winner = store.candidate(evaluation.candidate_id)
    signature = signature_of(spec)
    evidence = evaluation.evidence.value if evaluation.evidence else "unknown evidence"
    place = _place(learned, evaluation)
    data: dict[str, Any] = {
        "learned_from": learned.run,
        "spec": spec.name,
        "fingerprint": spec.fingerprint,
        "signature": signature.plain(),
        "backend": learned.backend,
        "arch": learned.device.target.arch if learned.device else "",
        "device": place,
        "language": winner.language,
        "score": round(score, 4),
        "evidence": evidence,
        "candidate": winner.id,
    }
    if winner.genome is not None:
        data["genome"] = dict(winner.genome)
    name = content_hash([spec.fingerprint, place, winner.id])[:8]
    sizes = "; ".join(f"{c.name}: {_shapes(spec, c.name)}" for c in spec.timed_cases)
    unfinished = "" if store.info().final else " The run was not finished: nothing is confirmed."
    lines = [
        f"Learned from run {learned.run}: {len(found)} candidates by "
        f"{store.settings.get('generator', '?')}.{unfinished}",
        "",
        f"- Computes {', '.join(signature.operators) or spec.name} ({sizes}).",
        f"- The best kernel is in {winner.language}, {score:.2f} times as fast as the best baseline "
        f"({evidence}, {place}).",
    ]
    if winner.libraries:
        lines.append(f"- It calls {', '.join(winner.libraries)}.")
    lines += _bottleneck(evaluation) + _compared(found, winner, score) + _helped(found) + _source(winner)
    profile = evaluation.profile
    known = profile is not None and profile.bottleneck != "unknown"
    yield Page(
        id=f"skills/{_slug(learned.target)}/{_slug(spec.name)}-{name}",
        title=f"{spec.name} in {winner.language} on {place}: {score:.2f} times the best baseline",
        kind="skills",
        body="\n".join(lines),
        targets=(learned.target,),
        languages=(winner.language,),
        operators=_operators(spec),
        bottlenecks=(profile.bottleneck,) if profile is not None and known else (),
        sources=(f"run {learned.run} ({evidence} on {place})",),
        status="proposed",
        data=data,
    )


def _final(store: RunStore) -> Evaluation | None:
    """The evaluation that carries the run's result; of an unfinished run the most trustworthy there is."""
    info = store.info()
    if info.final is not None:
        return store.evaluation(*info.final)
    for phase in ("confirm", "race", "search"):
        for best in store.top(1, phase):
            return store.evaluation(phase, best.sequence)
    return None


def _bottleneck(evaluation: Evaluation) -> list[str]:
    profile = evaluation.profile
    if profile is None:
        return []
    roof = f", {profile.roofline.fraction:.0%} of the bound" if profile.roofline else ""
    hints = [f"  - {hint}" for hint in profile.hints]
    return [f"- Its bottleneck is then {profile.bottleneck} ({profile.evidence.value}{roof}).", *hints]


def _compared(found: Sequence[Trial], winner: Candidate, score: float) -> list[str]:
    """Against the first accepted candidate: what was changed, and what that gave."""
    first = next((trial for trial in found if trial.score), None)
    own = next((trial for trial in found if trial.candidate.id == winner.id), None)
    if first is None or own is None or first is own or not first.score:
        return []
    lines = [f"- The first accepted candidate had {first.score:.2f}; the winner changed it so:"]
    changed = [
        f"  - {name}: {first.choices.get(name, 'none')} to {own.choices.get(name, 'none')}"
        for name in sorted({*first.choices, *own.choices})
        if first.choices.get(name) != own.choices.get(name)
    ]
    return [*lines, *changed] if changed and score > first.score else []


def _helped(found: Sequence[Trial]) -> list[str]:
    stated = effects(found)[:_EFFECTS]
    lines = ["", "Choices and their mean effect over the run's candidates:", ""] if stated else []
    for effect in stated:
        what = f"{effect.ratio:.2f} times the score of others" if effect.ratio else "never accepted"
        failed = f", {effect.failures} of them failed" if effect.failures and effect.ratio else ""
        lines.append(f"- {effect.choice} = {effect.value}: {what} ({effect.count} candidates{failed})")
    return lines


def _source(winner: Candidate) -> list[str]:
    native = {name: text for name, text in winner.files.items() if name != winner.entry}
    files = native or dict(winner.files)
    name, text = max(files.items(), key=lambda item: len(item[1]))
    if len(text) > _SOURCE:
        return []
    return ["", f"The kernel ({name}):", "", "```", text.strip(), "```"]


def _cured(spec: KernelSpec, found: Sequence[Trial], learned: Learned) -> Iterable[Page]:
    seen: set[str] = set()
    for cure in cures(found):
        page = _cure(spec, cure, learned)
        if page.id not in seen and len(seen) < _CURES:
            seen.add(page.id)
            yield page


def _cure(spec: KernelSpec, cure: Cure, learned: Learned) -> Page:
    verdict = cure.failed.evaluation.verdict
    before, after = cure.failed.candidate, cure.cured.candidate
    reason = " ".join((verdict.reason or verdict.kind.value).split())
    key = content_hash([verdict.kind.value, after.language, _PLACES.sub("#", reason), learned.target])[:8]
    log = str(verdict.detail.get("log", "")).strip()[:_LOG]
    lines = [
        f"Learned from run {learned.run} ({spec.name}): a {after.language} candidate failed with",
        "",
        f"> {verdict.kind.value.replace('_', ' ')} in stage '{verdict.stage}': {reason}",
    ]
    if log:
        lines += ["", "```", log, "```"]
    score = cure.cured.score
    lines += ["", f"It was accepted{f' (score {score:.2f})' if score else ''} after this change:", ""]
    lines += ["```diff", *_diff(before, after), "```"]
    return Page(
        id=f"skills/{_slug(learned.target)}/cure-{_slug(verdict.kind.value)}-{key}",
        title=f"A cure in {after.language} for: {reason[:90]}",
        kind="skills",
        body="\n".join(lines),
        targets=(learned.target,),
        languages=(after.language,),
        operators=_operators(spec),
        verdicts=(verdict.kind.value,),
        symptoms=(reason[:200],),
        sources=(f"run {learned.run}",),
        status="proposed",
        data={
            "learned_from": learned.run,
            "backend": learned.backend,
            "language": after.language,
            "failed": before.id,
            "cured": after.id,
        },
    )


def _diff(before: Candidate, after: Candidate) -> list[str]:
    lines: list[str] = []
    for name in sorted({*before.files, *after.files}):
        old, new = before.files.get(name, ""), after.files.get(name, "")
        lines += difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, n=1, lineterm="")
    return lines if len(lines) <= _DIFF else [*lines[:_DIFF], f"… {len(lines) - _DIFF} more lines"]


def _operators(spec: KernelSpec) -> tuple[str, ...]:
    names = operators_of(spec.reference.source)
    return tuple(dict.fromkeys((*names, *families(names))))


def _shapes(spec: KernelSpec, case: str) -> str:
    shapes = (f"{i.name} {i.dtype}{list(i.shape)}" for i in spec.case(case).inputs if i.shape is not None)
    return ", ".join(shapes) or "inputs by function"


def _place(learned: Learned, evaluation: Evaluation) -> str:
    if learned.device is not None:
        return learned.device.name
    return next((m.device for m in evaluation.measurements), learned.backend)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "skill"
