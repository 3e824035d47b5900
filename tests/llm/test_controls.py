"""Caps hold for a run with its controls: they ask the same models on its behalf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from bench import kernel, settings_for
from scripted import ScriptedServer, Seen

import kevolve_core
from kevolve_core import Budget, Registry
from kevolve_core.llm import Journal, ModelConfig
from kevolve_core.serial import to_plain
from tests.double import plugin as toy

FOLDERS = ("", "controls/random", "controls/independent")


@pytest.mark.parametrize("kept", [1.5, 40])
def test_a_cap_holds_for_the_controls_too(server: ScriptedServer, tmp_path: Path, kept: float) -> None:
    """``kept``: how many requests of the most expensive kind the cap has room for."""
    server.answer = numbered
    registry = Registry()
    registry.register(toy, name="toy")
    toy.write_files(tmp_path)
    settings = evolve(
        settings_for(server.url, models={"m": ModelConfig(max_output_tokens=300)}), language="python", pages=0
    )
    first = run(registry, tmp_path, "first", settings, Budget(candidates=1), controls=False)
    (call,) = Journal(first).calls()
    cap = int(kept * (call.request.input_bound + call.request.max_output_tokens))
    server.billed = 0
    limits = Budget(candidates=6, tokens=cap)
    folder = run(registry, tmp_path, "capped", settings, limits, controls=True)
    spent = sum(Journal(folder / each).spent().tokens for each in FOLDERS)
    assert 0 < server.billed <= spent <= cap
    report = (folder / "report.md").read_text()
    assert ("not comparable" in report) == (kept == 1.5)


def run(registry: Registry, where: Path, name: str, settings: Any, budget: Budget, *, controls: bool) -> Path:
    kevolve_core.evolve(
        where / "spec.yaml", registry=registry, generator="llm", executor="toy", out=where / name,
        generator_options={"llm": to_plain(settings)}, budget=budget, controls=controls, memory="off",
    )  # fmt: skip
    return where / name


def numbered(seen: Seen) -> str:
    return kernel(int(seen.headers["idempotency-key"][-8:], 16), "add_one")
