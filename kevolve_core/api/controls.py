"""Controls of a run: the same budget spent without search, each a run of its own below the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kevolve_core.evolve import Budget, collect
from kevolve_core.evolve.policies import IndependentPolicy, RandomPolicy
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Evaluation
from kevolve_core.report import Control, overall_speedup
from kevolve_core.store import EvaluationRow, RunStore

__all__ = ["CONTROLS", "caps_left", "closest", "control_store", "controls_of"]

#: Policies that learn nothing, in the order in which they are run.
CONTROLS = (RandomPolicy.name, IndependentPolicy.name)
_LAST_PHASES = ("confirm", "race", "search")  # of the search, most trustworthy first


def _folder(run: Path, name: str) -> Path:
    return run / "controls" / name


@contextmanager
def control_store(
    run: RunStore, settings: Mapping[str, Any], name: str, evaluations: int
) -> Iterator[tuple[RunStore, bool]]:
    """The store of one control and whether it was there before. It gets as many evaluations as the search
    had."""
    folder = _folder(run.path, name)
    begun = (folder / "run.sqlite").exists()
    own: dict[str, Any] = {"policy": name, "policy_options": {}, "memory": None, "controls": False}
    budget = {"candidates": max(1, evaluations)}
    with (
        RunStore.open(folder)
        if begun
        else RunStore.create(folder, spec=run.spec, settings={**settings, **own, "budget": budget})
    ) as store:
        yield store, begun


def caps_left(run: Path, caps: Budget, name: str) -> Budget:
    """The caps that are left for control ``name``: the run's caps hold for all that is asked on its behalf.
    What the control itself asked before it was resumed is not subtracted: its own journal knows."""
    if caps.tokens is None and caps.money is None:
        return Budget()
    from kevolve_core.llm.journal import Journal  # with httpx: only runs that have caps need it
    from kevolve_core.llm.ledger import Cost

    others = [_folder(run, other) for other in CONTROLS if other != name]
    spent = sum((Journal(folder).spent() for folder in (run, *others)), Cost())
    return Budget(
        tokens=None if caps.tokens is None else max(0, caps.tokens - spent.tokens),
        money=None if caps.money is None else max(0.0, caps.money - spent.money),
    )


def controls_of(run: Path, spec: KernelSpec) -> tuple[Control, ...]:
    """What the controls of a run came to, as far as they went."""
    found = []
    for name in CONTROLS:
        folder = _folder(run, name)
        if not (folder / "run.sqlite").exists():
            continue
        with RunStore.open_readonly(folder) as store:
            result = collect(store)
            evaluation = result.evaluation or closest(store)
        speedup = None if evaluation is None else overall_speedup(spec, evaluation)
        capped = result.stopped in ("tokens", "money")
        found.append(Control(name, result.evaluations, not result.resumable, speedup, capped))
    return tuple(found)


def closest(store: RunStore) -> Evaluation | None:
    """The best evaluation of the last phase that has an accepted one, when nothing beat the baseline."""
    for phase in _LAST_PHASES:
        row: EvaluationRow | None = next(iter(store.top(1, phase)), None)
        if row is not None:
            return store.evaluation(phase, row.sequence)
    return None
