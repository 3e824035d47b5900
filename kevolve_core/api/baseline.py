"""The kernel of a run that found nothing better: the fastest baseline, as a candidate like any other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median

from kevolve_core.interfaces import Baseline
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation, Origin

__all__ = ["baseline_kernel", "fastest_baseline"]

_EAGER = "eager"


def fastest_baseline(spec: KernelSpec, evaluation: Evaluation | None) -> str:
    """The baseline with the least weighted geometric mean of median times over the timed cases, among those
    timed on all of them; ``eager`` where nothing was timed."""
    cases = spec.timed_cases
    found = [evaluation.measurement(case.name) if evaluation else None for case in cases]
    measurements = [m for m in found if m is not None]
    if not measurements or len(measurements) < len(cases):
        return _EAGER
    names = set(measurements[0].baselines).intersection(*(m.baselines for m in measurements))
    if not names:
        return _EAGER

    def cost(name: str) -> float:
        return sum(
            case.weight * math.log(median(m.baselines[name]))
            for case, m in zip(cases, measurements, strict=True)
        )

    return min(sorted(names), key=cost)


def baseline_kernel(spec: KernelSpec, name: str, baselines: Iterable[Baseline]) -> Candidate:
    """Baseline ``name`` as a kernel: the user's own kernel where it is one, else the reference, compiled by
    ``torch.compile`` where that is what the baseline does."""
    for seed in spec.seeds:
        if seed.id in name:
            return seed
    kinds = {baseline.name: baseline.kind for baseline in baselines}
    compiled = kinds.get(name) == "compiled"
    reference = spec.reference
    module = reference.kind == "module"
    text = reference.source.rstrip("\n") + "\n"
    if module and compiled:
        text += _COMPILED_MODULE.format(symbol=reference.symbol)
    elif module:
        text += f"\n\nModelNew = {reference.symbol}\n"
    elif compiled:
        text += _COMPILED_FUNCTION.format(symbol=reference.symbol)
    return Candidate(
        files={"kernel.py": text},
        entry="kernel.py",
        language="python",
        symbol="" if module else reference.symbol,
        origin=Origin(generator="baseline", operator=name),
    )


_COMPILED_MODULE = """

class ModelNew({symbol}):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.compile(dynamic=False)
"""

_COMPILED_FUNCTION = """

import torch  # noqa: E402

{symbol} = torch.compile({symbol}, dynamic=False)
"""
