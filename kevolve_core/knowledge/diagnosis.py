"""From a verdict and a profile to a question: what a compiler, the oracle or the profiler said."""

from __future__ import annotations

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.index import Query
from kevolve_core.knowledge.operators import families, operators_of
from kevolve_core.model import Device, Evaluation, Target

__all__ = ["question", "spec_operators"]

_LOG = 1500  # characters of a log that count: the first errors name the cause (estimated)
#: Details of a verdict that say something in words.
_TELLING = ("log", "signal", "distribution", "layout", "rule", "operator")


def spec_operators(spec: KernelSpec) -> tuple[str, ...]:
    """Operators of a spec's reference and the families they belong to."""
    names = operators_of(spec.reference.source)
    return tuple(dict.fromkeys((*names, *families(names))))


def question(
    spec: KernelSpec,
    device: Device | Target,
    *,
    language: str = "",
    evaluation: Evaluation | None = None,
    text: str = "",
) -> Query:
    """The question that helps with the next candidate.

    Args:
        spec: what is computed.
        device: for what.
        language: of the candidate to write.
        evaluation: of the parent; a failed one asks about the failure, a timed one about its bottleneck.
        text: more words of the caller.
    """
    target = device.target if isinstance(device, Device) else device
    names = f"{target.backend}, {target.arch}"
    words = [text, spec.name.replace("_", " ")]
    bottleneck = verdict = ""
    if evaluation is not None and not evaluation.accepted:
        found = evaluation.verdict
        verdict = found.kind.value
        details = (str(found.detail[key])[:_LOG] for key in _TELLING if found.detail.get(key))
        words += [found.reason, found.stage, *details]
    elif evaluation is not None and evaluation.profile is not None:
        bottleneck = evaluation.profile.bottleneck
        words += evaluation.profile.hints
    return Query(
        text=" ".join(" ".join(words).split()),
        language=language,
        target=names,
        operators=spec_operators(spec),
        bottleneck="" if bottleneck == "unknown" else bottleneck,
        verdict=verdict,
    )
