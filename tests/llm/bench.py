"""A search without hardware: a spec, a device, an executor that judges sources, a scripted model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kevolve_core.evolve import Budget, RunResult, SearchSettings, make_policy, resume
from kevolve_core.interfaces import EvaluationRequest, Proposal
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.llm import LlmGenerator, LlmSettings, Mix, ProviderConfig, Providers, provider_factory
from kevolve_core.model import Candidate, Device, Evaluation, Evidence, Measurement, Ratio, Target, Verdict
from kevolve_core.model import VerdictKind as Kind
from kevolve_core.registry import Registry
from kevolve_core.serial import to_plain
from kevolve_core.store import RunStore

SPEC = KernelSpec(
    name="double",
    reference=Reference("import torch\n\n\ndef double(x):\n    return x + x\n", "double"),
    cases=(
        Case("a", (InputSpec("x", (4, 64)),)),
        Case("hidden", (InputSpec("x", (5, 7)),), role="holdout"),
    ),
)
DEVICE = Device("fake:0", "fake", "Fake 9000", Target("fake", "f9"), facts={"cores": 2, "l2_bytes": 1 << 20})
SEARCH, RACE, CONFIRM = ("rules", "quick"), ("race",), ("confirm", "holdout", "profile")


def kernel(number: int, symbol: str = "double") -> str:
    """A reply with a whole file; ``number`` decides how fast it is."""
    return f"Here.\n\n`kernel.py`\n```python\nSPEED = {number}\n\n\ndef {symbol}(x):\n    return x + x\n```\n"


def judge(candidate: Candidate, stages: tuple[str, ...]) -> Evaluation:
    """By the source alone: ``SPEED = n`` gives a score, 13 and its multiples a failure."""
    found = re.search(r"SPEED = (\d+)", candidate.files["kernel.py"])
    number = int(found[1]) if found else 0
    if number % 13 == 0:
        detail = {"index": [0, 3], "got": 1.5, "expected": 2.0, "log": "line one\nline two"}
        return Evaluation(candidate.id, Verdict(Kind.WRONG_RESULT, "differs", stages[0], detail))
    score = 0.5 + (number * 37 % 101) / 50
    ratio = Ratio(score, score * 0.97, score * 1.03, 4)
    measured = Measurement(
        "a", "fake:0", Evidence.SIMULATED, stages[-1], (1e-3,), {"eager": (score * 1e-3,)}, {"eager": ratio},
        "eager", 4e-4,
    )  # fmt: skip
    return Evaluation(candidate.id, Verdict(Kind.ACCEPTED), (), (measured,), score, Evidence.SIMULATED)


class Executor:
    """Judges at once, and counts."""

    def __init__(self, judged: Callable[[Candidate, tuple[str, ...]], Evaluation] = judge) -> None:
        self.requests: list[EvaluationRequest] = []
        self._judge = judged
        self._pool = ThreadPoolExecutor(1)

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        self.requests.append(request)
        return self._pool.submit(self._judge, request.candidate, request.stages)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def settings_for(url: str, kind: str = "openai-chat", **changes: Any) -> LlmSettings:
    """One provider ``p`` at ``url`` with model ``m`` in every role."""
    own = {"stall_timeout_s": 0.25, "backoff_s": 0.001, "backoff_max_s": 0.01, "attempts": 12} | changes
    providers = Providers({"p": ProviderConfig("p", kind, url, **own)})
    return LlmSettings(providers=providers, mix=Mix.parse(["p:m"]), language="triton")


def generator(settings: LlmSettings, **changes: Any) -> LlmGenerator:
    return LlmGenerator(SPEC, DEVICE, ["triton"], settings, provider_factory(Registry()), **changes)


def proposal(sequence: int = 0, **changes: Any) -> Proposal:
    return Proposal(SPEC, DEVICE, sequence, seed=0, **changes)


def search_settings(**changes: Any) -> SearchSettings:
    values: dict[str, Any] = {
        "budget": Budget(candidates=12),
        "search_stages": SEARCH,
        "race_stages": RACE,
        "confirm_stages": CONFIRM,
    }
    return SearchSettings(**(values | changes))


def search(
    run: Path,
    made: LlmGenerator,
    settings: LlmSettings,
    *,
    executor: Any = None,
    tokens: int | None = None,
    **changes: Any,
) -> RunResult:
    """Begin the run in ``run``, or go on with it, as `kevolve_core.api` does."""

    async def sit(store: RunStore) -> RunResult:
        made.open(run, tokens=tokens)
        try:
            return await resume(
                store,
                device=DEVICE,
                generator=made,
                policy=make_policy("greedy"),
                executor=executor or Executor(),
                settings=search_settings(**changes),
            )
        finally:
            await made.close()

    options = {"generator_options": {"llm": to_plain(settings)}, "policy_options": {}, "seed": 0}
    exists = (run / "run.sqlite").exists()
    with RunStore.open(run) if exists else RunStore.create(run, spec=SPEC, settings=options) as store:
        return asyncio.run(sit(store))
