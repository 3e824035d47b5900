"""`replay`: a recorded search once more, with recorded replies and evaluations: no network, no device."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from kevolve_core.api.memory import resumed_memory
from kevolve_core.api.parts import policy_of
from kevolve_core.errors import UnsupportedError, WorkerError
from kevolve_core.evolve import Budget, RunResult, SearchSettings
from kevolve_core.evolve import run as run_search
from kevolve_core.evolve.mixing import MixedGenerator
from kevolve_core.interfaces import CodeGenerator, EvaluationRequest, Proposal
from kevolve_core.llm import LlmGenerator, LlmSettings, ProviderConfig, Providers
from kevolve_core.llm.model import Request
from kevolve_core.llm.providers import ReplayProvider
from kevolve_core.llm.recording import Recording, unpack
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry
from kevolve_core.serial import from_plain
from kevolve_core.store import RunStore

__all__ = ["Replay", "replay"]


@frozen
class Replay:
    """A replayed search beside the recorded one.

    Args:
        recording: what was replayed.
        result: the new run's.
        differences: prompts, candidates and scores that are not as recorded, in words; empty
            where the search took the same way to the same end, bit by bit.
    """

    recording: Recording
    result: RunResult
    differences: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not self.differences


class _Recorded:
    """An executor that knows every answer already."""

    def __init__(self, recording: Recording, settings: SearchSettings) -> None:
        self._known = recording.evaluations
        self._phases = {
            settings.confirm_stages: "confirm",
            settings.race_stages: "race",
            settings.search_stages: "search",
        }

    def submit(self, request: EvaluationRequest) -> Future[Evaluation]:
        answer: Future[Evaluation] = Future()
        phase = self._phases[request.stages]
        found = self._known[phase].get(request.candidate.id)
        if found is None:
            answer.set_exception(
                WorkerError(
                    "this evaluation was not recorded",
                    kind="replay",
                    got=f"candidate {request.candidate.id} in phase {phase}",
                    mend="the replay left the recorded way: see what differs before it",
                )
            )
        else:
            answer.set_result(found)
        return answer

    def close(self) -> None:
        """Nothing is open."""


def replay(source: str | Path, *, out: str | Path | None = None, registry: Registry | None = None) -> Replay:
    """Run the search of ``source`` again and compare.

    Everything but replies and evaluations is computed anew: parents, prompts, parsing, duplicates, the choice
    of models, finalists. Reads no network and needs neither the backend nor its device.

    Args:
        source: a run's folder, or a file that `kevolve replay RUN --pack FILE` wrote.
        out: keep the new run in this folder; None: nowhere.
        registry: for policies of plugins.

    Raises:
        UnsupportedError: no language model wrote in the run.
        StoreError: there is no recording, or it is damaged.
    """
    recording = unpack(Path(source))
    if "llm" not in str(recording.search.get("generator")).split("+") or recording.device is None:
        raise UnsupportedError(
            "only runs in which language models wrote can be replayed",
            got=recording.search.get("generator"),
            where=str(source),
        )
    with tempfile.TemporaryDirectory(prefix="kevolve-replay-") as folder:
        recorded = Path(folder, "recorded")
        recording.write_journal(recorded)
        target = Path(out) if out is not None else Path(folder, "run")
        changed: list[Request] = []
        generator = _generator(recording, recorded, changed.append)
        result = asyncio.run(_again(recording, generator, target, registry or Registry()))
    return Replay(recording, result, (*_changes(changed), *_differences(recording, result)))


async def _again(
    recording: Recording, generator: LlmGenerator, target: Path, registry: Registry
) -> RunResult:
    settings = from_plain(SearchSettings, recording.search["settings"])
    # What ended the recorded search was time, tokens or patience; the replay ends where it ended.
    made = [c.id for c in recording.proposals if c is not None]
    # A repeat at the end came after the last new candidate: it has to be reached too.
    repeated = bool(made) and made[-1] in made[:-1]
    limit = len(set(made)) + repeated
    settings = attrs.evolve(settings, budget=Budget(candidates=max(1, limit)))
    name, options = str(recording.search["policy"]), recording.settings.get("policy_options")
    memory = resumed_memory(recording.search.get("memory"))
    if memory is not None:
        memory = attrs.evolve(memory, experience=tuple(recording.search.get("experience", ())))
    with RunStore.create(target, spec=recording.spec, settings=dict(recording.settings)) as store:
        attrs.evolve(recording, calls=()).write_journal(target)
        generator.open(target)
        try:
            return await run_search(
                store,
                device=generator.device,
                generator=_mixed(recording, generator),
                memory=memory,
                policy=policy_of(name, options, registry),
                executor=_Recorded(recording, settings),
                settings=settings,
            )
        finally:
            await generator.close()


class _Part:
    """Any other generator of a mix: what it proposed then, it proposes now."""

    def __init__(self, name: str, recording: Recording) -> None:
        self.name = name
        self._proposals = recording.proposals

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        del n
        found = self._proposals[context.sequence] if context.sequence < len(self._proposals) else None
        return [] if found is None else [found]


def _mixed(recording: Recording, generator: LlmGenerator) -> CodeGenerator:
    """As the command line makes it: with a tuner beside the generators that are named."""
    names = str(recording.search["generator"]).split("+")
    return MixedGenerator({n: generator if n == "llm" else _Part(n, recording) for n in names})


def _generator(recording: Recording, recorded: Path, changed: Callable[[Request], None]) -> LlmGenerator:
    """The recorded generator, with the journal in place of every provider."""
    assert recording.device is not None
    options = recording.settings.get("generator_options", {}).get("llm", {})
    llm = from_plain(LlmSettings, dict(options))

    def make(config: ProviderConfig, **_: Any) -> ReplayProvider:
        return ReplayProvider(attrs.evolve(config, path=str(recorded)), changed=changed)

    languages = [llm.language] if llm.language else [c.language for c in recording.proposals if c is not None]
    tainted = {t for call in recording.calls for t in call.request.taint if t.startswith("backend:")}
    confidential = recording.settings.get("confidential", "") or "".join(sorted(tainted)[:1])
    return LlmGenerator(
        recording.spec,
        recording.device,
        languages or ["cpp"],
        attrs.evolve(llm, providers=_once(llm)),
        lambda _kind: make,
        confidential=str(confidential).removeprefix("backend:"),
        knowledge=lambda *_: (),  # the pages lie with the run
    )


def _once(llm: LlmSettings) -> Providers:
    """Every provider of the mix, asked once only: a recorded fault does not go away."""
    names = {ref.provider for ref in llm.mix.all}
    return attrs.evolve(
        llm.providers, providers={n: attrs.evolve(llm.providers.get(n), attempts=1) for n in names}
    )


def _changes(requests: Sequence[Request]) -> Iterator[str]:
    for request in requests:
        yield f"the prompt of request {request.nonce} is not as recorded (its recorded reply was taken)"


def _differences(recording: Recording, result: RunResult) -> Iterator[str]:
    """What is not as recorded, in order."""
    if result.error is not None:
        yield f"the replay ended by a fault: {result.error.what}"
    again = result.trajectory
    for sequence, candidate in enumerate(recording.proposals):
        wanted = None if candidate is None else candidate.id
        if sequence >= len(again):
            if wanted is not None:
                yield f"proposal {sequence} was not made again"
            continue
        point = again[sequence]
        if point.candidate_id != wanted:
            gave = point.candidate_id or "nothing"
            yield f"proposal {sequence} gave {gave} instead of {wanted or 'nothing'}"
        elif wanted is not None and point.score != _score(recording, wanted):
            yield f"proposal {sequence} scored {point.score} instead of {_score(recording, wanted)}"
    for point in again[len(recording.proposals) :]:
        yield f"proposal {point.sequence} was not recorded"
    if result.error is None:
        yield from _ends(recording, result)


def _ends(recording: Recording, result: RunResult) -> Iterator[str]:
    confirmed = list(recording.evaluations["confirm"].values())
    if confirmed and result.evaluation is not None and result.evaluation not in confirmed:
        yield f"the winner {result.evaluation.candidate_id} was not confirmed in the recording"


def _score(recording: Recording, candidate_id: str) -> float | None:
    evaluation = recording.evaluations["search"].get(candidate_id)
    return evaluation.score if evaluation is not None else None
