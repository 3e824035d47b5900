"""`evaluate` and `repro`: one candidate through the pipeline, without a search."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from kevolve_core.api.parts import SpecLike, as_candidate, as_spec, open_executor, place
from kevolve_core.errors import DegenerateSpecError, UnknownNameError
from kevolve_core.interfaces import EvaluationRequest, Executor
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry
from kevolve_core.store import RunStore

__all__ = ["EVALUATE_STAGES", "Reproduction", "evaluate", "repro", "stored_evaluation"]

EVALUATE_STAGES = ("rules", "compile", "small", "cases", "confirm", "holdout", "profile")

_PHASES = ("confirm", "race", "search")


def evaluate(
    spec: SpecLike,
    candidate: Candidate | str | Path,
    *,
    backend: str | None = None,
    example_inputs: Sequence[Any] | None = None,
    stages: Sequence[str] = EVALUATE_STAGES,
    seed: int | None = None,
    executor: str | Executor = "local",
    device: str | None = None,
    registry: Registry | None = None,
    allow_degenerate: bool = False,
) -> Evaluation:
    """Compile, check and time one candidate.

    Args:
        spec: as for `evolve`.
        candidate: a file, a folder, or a candidate.
        stages: those to run, by name; they run in pipeline order and end at the first that fails.
        seed: of the inputs; None draws a secret one. The evaluation discloses it.
        (the others): as for `evolve`.

    Raises:
        KevolveError: a mistake in the arguments, or a fault of the installation. A fault of the candidate is
            its verdict.
    """
    wanted = as_spec(spec, example_inputs=example_inputs)
    made = as_candidate(candidate, wanted)
    where = place(wanted, backend, registry=registry, device=device)
    drawn = secrets.randbits(62) if seed is None else seed
    opened = open_executor(executor, where, wanted, seed=drawn, workdir=None)
    try:
        try:
            opened.check_spec()
        except DegenerateSpecError:
            if not allow_degenerate:
                raise
        return opened.submit(EvaluationRequest(wanted, made, tuple(stages), drawn)).result()
    finally:
        opened.close()


@frozen
class Reproduction:
    """A stored evaluation beside a new one on the same inputs."""

    spec: KernelSpec
    candidate: Candidate
    stored: Evaluation
    again: Evaluation

    @property
    def same(self) -> bool:
        """Both have the same verdict, and failed in the same stage where they failed."""
        old, new = self.stored.verdict, self.again.verdict
        return old.kind is new.kind and (old.accepted or old.stage == new.stage)


def repro(
    run: str | Path,
    evaluation: str | int,
    *,
    executor: str | Executor = "local",
    registry: Registry | None = None,
) -> Reproduction:
    """Run a stored evaluation again, with the seed of its own inputs.

    Args:
        run: the run's folder.
        evaluation: its sequence number in the search, ``confirm:0`` or ``race:1`` for one of the end, or a
            candidate's id (a prefix will do), of which the most trustworthy evaluation is meant.

    Raises:
        KevolveError: no such run or evaluation, or its backend is not ready.
    """
    with RunStore.open_readonly(run) as store:
        stored = stored_evaluation(store, evaluation)
        spec, settings = store.spec, store.settings
        candidate = store.candidate(stored.candidate_id)
    again = evaluate(
        spec,
        candidate,
        backend=settings["backend"],
        stages=tuple(record.stage for record in stored.stages) or EVALUATE_STAGES,
        seed=stored.seed,
        executor=executor,
        device=settings["device"],
        registry=registry,
        allow_degenerate=bool(settings.get("degenerate")),
    )
    return Reproduction(spec, candidate, stored, again)


def stored_evaluation(store: RunStore, name: str | int) -> Evaluation:
    """The evaluation that ``name`` means (see `repro`).

    Raises:
        UnknownNameError: there is none; says what there is.
    """
    text = str(name).strip()
    phase, _, number = text.rpartition(":")
    if number.isdigit() and phase in ("", *_PHASES):
        found = store.evaluation(phase or "search", int(number))
        if found is not None:
            return found
    elif not phase and (ids := candidate_ids(store, text)):
        if len(ids) > 1:
            raise UnknownNameError(
                "several candidates have ids that begin so",
                got=text,
                where=str(store.path),
                mend="; ".join(ids),
            )
        for each in _PHASES:
            if (found := store.evaluation_of(ids[0], each)) is not None:
                return found
    raise UnknownNameError(
        "there is no such evaluation in this run",
        got=text,
        where=f"{store.path}, which has {sum(store.counts().values())} evaluations of the search",
        mend="give a sequence number, confirm:0, or the beginning of a candidate's id (see `kevolve show`)",
    )


def candidate_ids(store: RunStore, prefix: str) -> list[str]:
    """Ids of the run's candidates that begin with ``prefix``."""
    found = (step.proposal.candidate_id for step in store.steps())
    return sorted({each for each in found if each is not None and prefix and each.startswith(prefix)})
