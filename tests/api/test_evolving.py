"""`evolve`, `evolve_async` and `resume`, on a plugin that needs no hardware."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import kevolve_core
from kevolve_core import Budget, Registry, Result
from kevolve_core.errors import (
    DegenerateSpecError,
    SpecError,
    StoreError,
    ToolchainMissingError,
    UnknownNameError,
)
from kevolve_core.evolve import Evaluated, Event, RunFinished
from tests.double import plugin as toy


@pytest.fixture(scope="module")
def registry() -> Registry:
    """One for all: probing the plugin takes a second."""
    registry = Registry()
    registry.register(toy, name="toy")
    return registry


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    toy.write_files(tmp_path)
    return tmp_path / "spec.yaml"


def options(registry: Registry, out: Path, **more: Any) -> dict[str, Any]:
    base = {"registry": registry, "generator": "toy", "executor": "toy", "out": out, "budget": "20c"}
    return {**base, **more}


def run(spec: Path, registry: Registry, name: str = "run", **more: Any) -> Result:
    return kevolve_core.evolve(spec, **options(registry, spec.parent / name, **more))


def test_a_run_returns_kernel_measurement_evidence_and_report(spec: Path, registry: Registry) -> None:
    result = run(spec, registry)
    assert result.improved
    assert result.confirmed
    assert result.best == result.kernel
    assert (result.evidence, result.measurement and result.measurement.phase) == ("measured", "confirm")
    assert result.speedup is not None
    assert result.speedup.low > 1.0
    assert result.report.markdown.read_text().startswith("# add_one")
    assert result.report.kernel.read_text().endswith(result.kernel.files["kernel.py"])


def test_the_only_ready_backend_needs_no_name(spec: Path, registry: Registry) -> None:
    assert run(spec, registry, budget="2c").device == toy.DEVICE


def test_nothing_better_returns_the_fastest_baseline_and_says_so(
    spec: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_LIMIT", "0.9")
    result = run(spec, registry)
    assert (result.improved, result.best) == (False, None)
    assert "The kernel is the baseline." in result.reason
    assert "torch.compile(add_one, dynamic=False)" in result.kernel.files["kernel.py"]
    assert result.speedup is not None
    assert result.speedup.value == pytest.approx(0.9)


def test_a_function_with_example_inputs_needs_no_file(tmp_path: Path, registry: Registry) -> None:
    torch = pytest.importorskip("torch")

    def double(x: Any) -> Any:
        return x * 2

    result = kevolve_core.evolve(
        double, example_inputs=(torch.ones(4, 4),), **options(registry, tmp_path / "run", budget="3c")
    )
    assert result.spec.reference.symbol == "double"


def test_a_function_without_example_inputs_is_refused(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(SpecError, match="needs example inputs"):
        kevolve_core.evolve(len, **options(registry, tmp_path / "run"))


def test_events_arrive_in_order_and_end_with_the_result(spec: Path, registry: Registry) -> None:
    events: list[Event] = []
    run(spec, registry, budget="5c", on_event=events.append)
    searched = [e.sequence for e in events if isinstance(e, Evaluated) and e.phase == "search"]
    assert sorted(searched) == [0, 1, 2, 3, 4]
    assert isinstance(events[-1], RunFinished)


def test_the_same_seed_takes_the_same_way(spec: Path, registry: Registry) -> None:
    first, second = run(spec, registry, "a", seed=3), run(spec, registry, "b", seed=3)
    assert first.search.trajectory == second.search.trajectory
    assert run(spec, registry, "c", seed=4).search.trajectory != first.search.trajectory


def test_several_runs_at_once_do_not_disturb_each_other(spec: Path, registry: Registry) -> None:
    async def three() -> list[Result]:
        runs = [
            kevolve_core.evolve_async(spec, **options(registry, spec.parent / f"r{seed}", seed=seed))
            for seed in range(3)
        ]
        return await asyncio.gather(*runs)

    together = asyncio.run(three())
    alone = [run(spec, registry, f"alone{seed}", seed=seed) for seed in range(3)]
    assert [r.search.trajectory for r in together] == [r.search.trajectory for r in alone]


def test_a_stop_returns_the_best_so_far(
    spec: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DELAY", "0.02")
    enough = threading.Event()

    def watch(event: Event) -> None:
        if isinstance(event, Evaluated) and event.score is not None and event.score > 1.05:
            enough.set()

    result = run(spec, registry, budget="2000c", on_event=watch, stop=enough.is_set)
    assert result.resumable
    assert result.search.stopped == "cancelled"
    assert result.improved
    assert not result.confirmed


def test_cancelling_keeps_the_best_so_far_on_disk(
    spec: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DELAY", "0.02")

    async def cancelled() -> None:
        found = asyncio.Event()

        def watch(event: Event) -> None:
            if isinstance(event, Evaluated) and event.score is not None and event.score > 1.05:
                found.set()

        task = asyncio.create_task(
            kevolve_core.evolve_async(
                spec, **options(registry, spec.parent / "run", budget="2000c", on_event=watch)
            )
        )
        await found.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    result = kevolve_core.load_result(spec.parent / "run", registry=registry)
    assert result.improved
    assert result.report.json.is_file()


def test_a_stopped_run_resumes_to_the_end_of_an_undisturbed_one(spec: Path, registry: Registry) -> None:
    seen: list[Event] = []

    def stop() -> bool:
        return sum(isinstance(e, Evaluated) for e in seen) >= 6

    run(spec, registry, "stopped", on_event=seen.append, stop=stop)
    resumed = kevolve_core.resume(spec.parent / "stopped", registry=registry)
    whole = run(spec, registry, "whole")
    assert resumed.search.trajectory == whole.search.trajectory
    assert (resumed.confirmed, resumed.kernel.id) == (True, whole.kernel.id)


def test_it_works_where_an_event_loop_is_running(spec: Path, registry: Registry) -> None:
    async def notebook() -> Result:
        return run(spec, registry, budget="3c")

    assert asyncio.run(notebook()).search.evaluations == 3


def test_no_signal_or_logging_handler_is_installed(spec: Path, registry: Registry) -> None:
    def handlers() -> tuple[Any, ...]:
        return (
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            *logging.getLogger().handlers,
        )

    before, during = handlers(), []
    run(spec, registry, budget="3c", on_event=lambda _: during.append(handlers()))
    assert {before} == {*during, handlers()}


def test_no_thread_outlives_a_run(spec: Path, registry: Registry) -> None:
    before = set(threading.enumerate())
    run(spec, registry, budget="3c")
    left = [t for t in set(threading.enumerate()) - before if not t.name.startswith("kevolve-evaluation")]
    assert left == []


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(spec: Path, registry: Registry) -> None:
    first = run(spec, registry)
    with pytest.raises(StoreError, match="already"):
        run(spec, registry)
    assert kevolve_core.load_result(first.run, registry=registry).kernel == first.kernel


def test_a_degenerate_spec_is_refused_before_a_folder_is_made(
    spec: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_FAULT", "degenerate")
    with pytest.raises(DegenerateSpecError):
        run(spec, registry)
    assert not (spec.parent / "run").exists()


def test_an_allowed_degenerate_spec_is_marked(
    spec: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_FAULT", "degenerate")
    result = run(spec, registry, allow_degenerate=True)
    assert '"degenerate": true' in result.report.json.read_text()


def test_a_fault_of_the_installation_is_raised_and_names_the_kept_run(
    spec: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_FAULT", "toolchain")
    with pytest.raises(ToolchainMissingError, match="kevolve resume"):
        run(spec, registry)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ({"backend": "toi"}, "toy"),
        ({"policy": "gredy"}, "greedy"),
        ({"generator": "synt"}, "synth"),
        ({"executor": "locl"}, "local"),
        ({"device": "toy:1"}, "toy:0"),
    ],
)
def test_a_mistyped_name_is_answered_by_the_nearest(
    spec: Path, registry: Registry, wrong: dict[str, str], near: str
) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
        run(spec, registry, **wrong)


def test_a_budget_object_and_its_text_are_the_same(spec: Path, registry: Registry) -> None:
    assert run(spec, registry, budget=Budget(candidates=4)).search.evaluations == 4


def test_the_callers_own_executor_stays_open(spec: Path, registry: Registry) -> None:
    mine = toy.ToyExecutor()
    run(spec, registry, budget="2c", executor=mine)
    assert not mine.closed
    mine.close()


def test_an_evaluation_that_is_repeated_has_the_same_verdict(spec: Path, registry: Registry) -> None:
    result = run(spec, registry)
    again = kevolve_core.repro(result.run, result.kernel.id[:8], executor="toy", registry=registry)
    assert again.same
    assert again.stored.seed == again.again.seed


def test_one_candidate_is_evaluated_without_a_run(spec: Path, registry: Registry) -> None:
    kernel = spec.parent / "mine.py"
    kernel.write_text("def add_one(x):\n    return x + 1\n")
    evaluation = kevolve_core.evaluate(spec, kernel, registry=registry, executor="toy")
    assert evaluation.accepted
