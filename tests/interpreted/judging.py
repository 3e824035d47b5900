"""Judges synthesised Triton candidates by the evaluator's own standards, under the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kevolve_core.evaluate import LocalExecutor, Plan
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry
from kevolve_core.synth.generator import SynthGenerator
from kevolve_core.synth.program import Partition
from tests.interpreted import plugin

STAGES = ("rules", "compile", "small", "cases", "holdout")


def generator_of(spec: KernelSpec) -> SynthGenerator:
    """The synth generator of ``spec`` for the interpreter."""
    backend = plugin.InterpretedBackend({})
    return SynthGenerator(spec, backend.renderers(), backend.schedule_space, plugin.DEVICE)


def candidates_of(spec: KernelSpec, count: int = 1, seed: int = 0) -> Sequence[Candidate]:
    """The default candidate, and ``count - 1`` drawn from the schedule spaces and partitions."""
    generator = generator_of(spec)
    found: list[Candidate] = []
    for sequence in range(count):
        proposal = Proposal(spec, plugin.DEVICE, sequence, seed)
        found += [c for c in generator.propose_now(proposal, 1) if c.id not in {f.id for f in found}]
    return found


def with_points(spec: KernelSpec, point: Mapping[str, Any]) -> Candidate:
    """The candidate whose every step has ``point``, where its space has such parameters."""
    generator = generator_of(spec)
    programs = generator.programs(Partition())
    choices = {s.name: point for p in programs for s in p.steps}
    return plugin.InterpretedBackend({}).renderers()["triton"].render(spec, programs, choices)


class Judge:
    """Evaluates candidates of one spec. Close when done."""

    def __init__(self, spec: KernelSpec, secret: int = 1) -> None:
        registry = Registry()
        registry.register(plugin, name="interpreted")
        self._spec = spec
        self._executor = LocalExecutor(
            registry.ref("interpreted"), registry.backend("interpreted"), plugin.DEVICE, spec,
            plan=Plan(), secret=secret,
        )  # fmt: skip

    def __call__(self, candidate: Candidate) -> Evaluation:
        request = EvaluationRequest(self._spec, candidate, STAGES)
        return self._executor.submit(request).result(timeout=600)

    def close(self) -> None:
        self._executor.close()
