"""Right numbers over element types and ragged shapes, judged by the evaluator's own oracle."""

from __future__ import annotations

from collections.abc import Sequence

from kevolve_core.evaluate import Plan
from kevolve_core.interfaces import EvaluationRequest, Renderer
from kevolve_core.ir import Program
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate, Device, Evaluation, Target
from kevolve_core.space import Space
from kevolve_core.synth import SynthGenerator
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS", "DTYPES", "described", "pointwise", "printable", "programs_of"]

#: Element types tried; those that a renderer refuses are left out, all but float32.
DTYPES = ("float32", "float16", "bfloat16")
#: (rows, columns): one element, primes, and one more than a power of two: what a tile's tail gets wrong.
SHAPES = ((1, 1), (5, 7), (3, 129), (37, 64))

_POINTWISE = "def scaled(x):\n    return x * 0.5 + 1\n"
_ROWS = """
import torch


class Scaled(torch.nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(columns))

    def forward(self, x):
        y = x * self.weight.to(x.dtype) + 0.5
        return y, y.sum(-1)
"""
_STAGES = ("rules", "compile", "small", "cases")
_programs: dict[str, tuple[Program, ...]] = {}


def _cases(dtype: str, module: bool) -> tuple[Case, ...]:
    return tuple(
        Case(
            f"{dtype}_{rows}x{columns}",
            (InputSpec("x", (rows, columns), dtype, special=False),),
            init={"columns": columns} if module else {},
        )
        for rows, columns in SHAPES
    )


def rows(dtypes: Sequence[str] = DTYPES) -> KernelSpec:
    """A module with a weight, whose results are pointwise and a row sum."""
    cases = tuple(case for dtype in dtypes for case in _cases(dtype, True))
    return KernelSpec("conformance_rows", Reference(_ROWS, "Scaled", "module"), cases)


def pointwise(dtypes: Sequence[str] = ("float32",)) -> KernelSpec:
    """A pointwise function: the smallest kernel there is."""
    cases = tuple(case for dtype in dtypes for case in _cases(dtype, False))
    return KernelSpec("conformance_scaled", Reference(_POINTWISE, "scaled"), cases)


def programs_of(spec: KernelSpec) -> tuple[Program, ...]:
    """The lowered program of every case."""
    if spec.fingerprint not in _programs:
        nowhere = Device("", "", "", Target("", ""))  # lowering knows no target
        _programs[spec.fingerprint] = SynthGenerator(spec, {}, lambda *_: _no_space(), nowhere).programs()
    return _programs[spec.fingerprint]


def _no_space() -> Space:
    raise AssertionError("lowering asks for no schedule")


def refusal(renderer: Renderer, spec: KernelSpec) -> str:
    """Why ``renderer`` cannot print a spec, or ""."""
    steps = (step for program in programs_of(spec) for step in program.steps)
    return next((reason for step in steps if (reason := renderer.supports(step))), "")


def printable(renderer: Renderer) -> KernelSpec | None:
    """The richer of the two specs that ``renderer`` prints for float32, over the element types it prints."""
    for make in (rows, pointwise):
        dtypes = [dtype for dtype in DTYPES if not refusal(renderer, make((dtype,)))]
        if "float32" in dtypes:
            return make(dtypes)
    return None


def described(evaluation: Evaluation) -> str:
    """A verdict in words."""
    verdict = evaluation.verdict
    detail = ", ".join(f"{k}={v}" for k, v in verdict.detail.items() if k not in ("log", "reference_log"))
    log = str(verdict.detail.get("log") or verdict.detail.get("got") or "")[-1500:]
    where = f" in stage '{verdict.stage}'" if verdict.stage else ""
    return f"{verdict.kind.value}{where}: {verdict.reason} ({detail[:400]})" + (f"\n{log}" if log else "")


def judged_right(
    subject: Subject, spec: KernelSpec, candidate: Candidate, stages: tuple[str, ...]
) -> Evaluation:
    """The evaluator's answer on a kernel that must be right."""
    executor = subject.executor(spec, Plan(quick_rounds=3, quick_seconds=3.0))
    try:
        return executor.submit(EvaluationRequest(spec, candidate, stages)).result()
    finally:
        subject.done(executor)


def copies(subject: Subject) -> None:
    """The copy probe passes the evaluator: every distribution, exactly, and its timed calls too."""
    spec = subject.spec(subject.probes.elements)
    stages = (*_STAGES, "quick") if "time" in subject.device.capabilities else _STAGES
    evaluation = judged_right(subject, spec, subject.probes.copy, stages)
    if not evaluation.accepted:
        raise fail(
            "the copy probe to be accepted",
            got=described(evaluation),
            mend="evaluate it by hand (`kevolve evaluate`), and see the stage that is named",
        )
    for m in evaluation.measurements:
        if m.evidence != subject.manifest.evidence:
            raise fail(f"evidence '{subject.manifest.evidence}'", got=m.evidence, mend="keep the manifest's")


def rendered(subject: Subject) -> None:
    """Rendered kernels agree with float64 over element types, ragged shapes, a weight and two results."""
    found = None
    for renderer in subject.backend.renderers().values():
        found = printable(renderer)
        if found is not None:
            break
    if found is None:
        raise SkippedError("no renderer prints the kit's programs: see synth.prints")
    generator = SynthGenerator(
        found, {renderer.language: renderer}, subject.backend.schedule_space, subject.device
    )
    candidate = generator.default()
    evaluation = judged_right(subject, found, candidate, _STAGES)
    if not evaluation.accepted:
        names = ", ".join(case.name for case in found.cases)
        raise fail(
            f"the rendered kernel to be right on {names}",
            got=described(evaluation),
            where=str(evaluation.verdict.detail.get("case", "")),
            mend="compare the source it prints for that case with the loop nest; round where the element "
            "type "
            "does, and mind the tail of a tile",
        )


_RUN = frozenset({"compile", "run"})
CHECKS = (
    Check("numeric.copy", copies, (1, 2), _RUN),
    Check("numeric.rendered", rendered, (1, 2), _RUN | {"synth"}),
)
