"""One executor for a small spec, shared by the tests of a module: starting processes is what costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kevolve_core.evaluate import LocalExecutor, Plan
from kevolve_core.interfaces import EvaluationRequest
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry

REFERENCE = """
import torch

def scaled_softmax(x, w):
    return torch.softmax(x * w, -1)
"""

SPEC = KernelSpec(
    name="scaled_softmax",
    reference=Reference(REFERENCE, "scaled_softmax"),
    cases=(
        Case("odd", (InputSpec("x", (7, 33)), InputSpec("w", (33,))), weight=0.0),
        Case("main", (InputSpec("x", (64, 256)), InputSpec("w", (256,)))),
        Case("unseen", (InputSpec("x", (16, 128)), InputSpec("w", (128,))), role="holdout"),
    ),
    options={"timeout_s": 5.0, "memory_bytes": 2 << 30},
)
FAST = Plan(quick_rounds=3, race_rounds=3, confirm_rounds=3, race_seconds=5.0, confirm_seconds=5.0)

Evaluate = Callable[..., Evaluation]


def make_executor(spec: KernelSpec, plan: Plan = FAST, secret: int | None = None) -> LocalExecutor:
    """An executor on the CPU backend, loaded as any plugin is."""
    registry = Registry()
    import kevolve_cpu.plugin

    registry.register(kevolve_cpu.plugin, name="cpu")
    device = registry.devices("cpu")[0]
    return LocalExecutor(registry.ref("cpu"), registry.backend("cpu"), device, spec, plan=plan, secret=secret)


@pytest.fixture(scope="session")
def evaluate() -> Iterator[Evaluate]:
    """Evaluate files (``kernel.py`` text, or a mapping of files) under stages up to ``quick`` on `SPEC`."""
    executor = make_executor(SPEC)

    def run(files: str | dict[str, str], *stages: str) -> Evaluation:
        named = {"kernel.py": files} if isinstance(files, str) else files
        candidate = Candidate(named, entry="kernel.py", language="cpp")
        wanted = stages or ("rules", "compile", "small", "cases", "quick")
        return executor.submit(EvaluationRequest(SPEC, candidate, wanted)).result(timeout=300)

    yield run
    executor.close()
