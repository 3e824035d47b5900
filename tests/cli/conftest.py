"""Command lines are run in a folder of their own, on a plugin that needs no hardware."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from kevolve_core.cli.app import run
from tests.double import plugin as toy

#: What every run on the toy plugin names.
TOY = ("--generator", "toy", "--executor", "toy")


@frozen
class Said:
    """What a command printed and returned."""

    code: int
    out: str
    err: str


Kevolve = Callable[..., Said]


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of probes that is shared: each probe takes a second."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def kevolve(
    tmp_path: Path, probes: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Kevolve:
    """Runs a command line in a folder with ``spec.yaml`` and ``plugins.toml``."""
    toy.write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(probes))
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: str) -> Said:
        code = run(arguments)
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def done(kevolve: Kevolve) -> Path:
    """The folder of a finished run."""
    said = kevolve("evolve", "spec.yaml", *TOY, "--budget", "25c", "--out", "run")
    assert said.code == 0, said.err
    return Path("run").absolute()
