"""`evaluate` and `repro`: one candidate through the pipeline, without a search."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from kevolve_core.api.evolving import CONFIRM_STAGES, RACE_STAGES, SEARCH_STAGES
from kevolve_core.api.parts import HookedExecutor, SpecLike, as_candidate, as_spec, open_executor, place
from kevolve_core.errors import DegenerateSpecError, StoreError, UnknownNameError, suggest
from kevolve_core.evolve import input_seed
from kevolve_core.interfaces import EvaluationRequest, Executor
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry
from kevolve_core.store import EvaluationRow, RunStore

__all__ = ["EVALUATE_STAGES", "Reproduction", "evaluate", "repro", "stored_evaluation"]

EVALUATE_STAGES = ("rules", "compile", "small", "cases", "confirm", "holdout", "profile")

_PHASE_STAGES = {"confirm": CONFIRM_STAGES, "race": RACE_STAGES, "search": SEARCH_STAGES}
_PHASES = tuple(_PHASE_STAGES)


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
    drawn = secrets.randbits(48) if seed is None else seed
    request = EvaluationRequest(wanted, made, known_stages(stages), drawn)
    opened = open_executor(executor, where, wanted, seed=0, secret=drawn)
    return _evaluated(opened, request, allow_degenerate)


def _evaluated(executor: HookedExecutor, request: EvaluationRequest, allow_degenerate: bool) -> Evaluation:
    """One evaluation of an executor that is closed afterwards."""
    try:
        try:
            executor.check_spec()
        except DegenerateSpecError:
            if not allow_degenerate:
                raise
        return executor.submit(request).result()
    finally:
        executor.close()


def known_stages(names: Sequence[str]) -> tuple[str, ...]:
    """``names``, all of which are stages. Raises UnknownNameError for another one."""
    from kevolve_core.evaluate import STAGES  # imports torch

    for name in names:
        if name not in STAGES:
            raise UnknownNameError(
                "there is no evaluation stage of this name",
                got=name,
                mend=suggest(name, STAGES) or f"stages are: {', '.join(STAGES)}",
            )
    return tuple(names)


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
        found = stored_evaluation(store, evaluation)
        spec, settings, run_secret = store.spec, store.settings, store.info().secret
        candidate = store.candidate(found.evaluation.candidate_id)
    where = place(None, settings["backend"], registry=registry, device=settings["device"])
    stored = found.evaluation
    request = EvaluationRequest(
        spec,
        candidate,
        _PHASE_STAGES[found.phase],
        input_seed(run_secret, found.phase, found.sequence),
    )
    opened = open_executor(executor, where, spec, seed=settings["seed"], secret=stored.seed)
    again = _evaluated(opened, request, allow_degenerate=True)
    return Reproduction(spec, candidate, stored, again)


@frozen
class StoredEvaluation:
    """An evaluation of a run and where it stands there."""

    phase: str
    sequence: int
    evaluation: Evaluation


def stored_evaluation(store: RunStore, name: str | int) -> StoredEvaluation:
    """The evaluation that ``name`` means (see `repro`); a duplicate's is the one it refers to.

    Raises:
        UnknownNameError: there is none; says what there is.
    """
    text = str(name).strip()
    phase, _, number = text.rpartition(":")
    if number.isdigit() and phase in ("", *_PHASES):
        row = store.evaluation_row(phase or "search", int(number))
        if row is not None:
            return _stored(store, row)
    elif not phase and (ids := candidate_ids(store, text)):
        if len(ids) > 1:
            raise UnknownNameError(
                "several candidates have ids that begin so",
                got=text,
                where=str(store.path),
                mend=f"one of {', '.join(ids)}",
            )
        for row in (*store.evaluation_rows("confirm"), *store.evaluation_rows("race"), *_searched(store)):
            if row.candidate_id == ids[0]:
                return _stored(store, row)
    raise UnknownNameError(
        "there is no such evaluation in this run",
        got=text,
        where=f"{store.path}, which has {sum(store.counts().values())} evaluations of the search",
        mend="give a sequence number, confirm:0, or the beginning of a candidate's id (see `kevolve show`)",
    )


def _stored(store: RunStore, row: EvaluationRow) -> StoredEvaluation:
    sequence = row.sequence if row.reused_from is None else row.reused_from
    evaluation = store.evaluation(row.phase, sequence)
    if evaluation is None:
        raise StoreError("an evaluation is missing", got=f"{row.phase}:{sequence}", where=str(store.path))
    return StoredEvaluation(row.phase, sequence, evaluation)


def _searched(store: RunStore) -> Iterator[EvaluationRow]:
    return (step.evaluation for step in store.steps() if step.evaluation is not None)


def candidate_ids(store: RunStore, prefix: str) -> list[str]:
    """Ids of the run's candidates that begin with ``prefix``."""
    found = (step.proposal.candidate_id for step in store.steps())
    return sorted({each for each in found if each is not None and prefix and each.startswith(prefix)})
