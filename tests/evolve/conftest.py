"""Makes the fakes beside it importable under pytest's importlib mode, and runs loops for the tests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from evolve_fakes import DEVICE, SPEC, FakeExecutor, FakeGenerator, settings

from kevolve_core.evolve import RunResult, make_policy, resume, run
from kevolve_core.store import RunStore


class Bench:
    """Runs the loop on one store; every part can be replaced by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.executor = FakeExecutor()
        self.generator: Any = FakeGenerator()

    def parts(self, **changes: Any) -> dict[str, Any]:
        policy = changes.pop("policy", None) or make_policy("greedy")
        own = {"device": DEVICE, "generator": self.generator, "policy": policy, "executor": self.executor}
        return {**own, **changes}

    def run(self, *, spec: Any = SPEC, name: str = "run", settings: Any = None, **changes: Any) -> RunResult:
        with RunStore.create(self.path / name, spec=spec, settings={}) as store:
            return asyncio.run(run(store, settings=settings or _settings(), **self.parts(**changes)))

    def resume(self, name: str = "run", **changes: Any) -> RunResult:
        with RunStore.open(self.path / name) as store:
            return asyncio.run(resume(store, **self.parts(**changes)))

    def look(self, at: Callable[[RunStore], Any], name: str = "run") -> Any:
        with RunStore.open_readonly(self.path / name) as store:
            return at(store)


_settings = settings


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.executor.close()
