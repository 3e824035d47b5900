"""A user's mistake is answered in words on stderr with exit code 2, never by a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import TOY, Kevolve


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evolv"], "did you mean 'evolve'?"),
        (["evolve", "spec.yaml", "--budgt", "3"], "did you mean '--budget'?"),
        (["evolve"], "missing argument 'SPEC'"),
        (["evolve", "spec.yaml", "--seed", "many"], "'many' is not a valid integer"),
        (["evolve", "spec.yaml", "--budget", "[5]x"], "got:   [5]x"),
        (["evolve", "spec.yaml", "--budget", "-5s"], "got:   -5s"),
        (["evolve", "spec.yml", *TOY], "did you mean 'spec.yaml'?"),
        (["evolve", "spec.yaml", "--backend", "toi"], "did you mean 'toy'?"),
        (["evolve", "spec.yaml", *TOY, "--policy", "gredy"], "did you mean 'greedy'?"),
        (["evolve", "spec.yaml", *TOY, "--seed-kernel", "no.py"], "no.py"),
        (["evolve", "spec.yaml", "--plugins", "no.toml"], "no.toml"),
        (["evaluate", "spec.yaml", "no_such_kernel.py"], "no_such_kernel.py"),
        (["resume", "no/run"], "there is no run in this directory"),
        (["show", "."], "there is no run in this directory"),
        (["repro", "nothing"], "write RUN:EVALUATION"),
        (["spec", "chek", "spec.yaml"], "chek"),
    ],
)
def test_a_mistake_is_answered_in_words(kevolve: Kevolve, arguments: list[str], words: str) -> None:
    said = kevolve(*arguments)
    assert said.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


def test_an_unknown_key_of_a_spec_has_a_suggestion(kevolve: Kevolve) -> None:
    Path("spec.yaml").write_text(Path("spec.yaml").read_text().replace("inputs:", "input:"))
    said = kevolve("evolve", "spec.yaml", *TOY)
    assert said.code == 2
    assert "inputs" in said.err


def test_long_paths_and_brackets_are_printed_whole(kevolve: Kevolve) -> None:
    name = "deep/" * 40 + "[red]spec[/red].yaml"
    assert name in kevolve("evolve", name).err


def test_a_mistake_shows_its_traceback_only_when_debugging(
    kevolve: Kevolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEVOLVE_DEBUG", "1")
    assert "Traceback" in kevolve("show", ".").err


def test_a_fault_of_ours_is_called_so(kevolve: Kevolve, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("kevolve_core.cli.runs.collect", broken)
    kevolve("evolve", "spec.yaml", *TOY, "--budget", "2c", "--out", "run")
    said = kevolve("show", "run")
    assert said.code == 70
    assert said.err.startswith("internal error: ZeroDivisionError: division by zero")
    assert "KEVOLVE_DEBUG=1" in said.err


def test_a_run_in_use_names_the_process(kevolve: Kevolve, done: Path) -> None:
    from kevolve_core.store import RunStore

    with RunStore.open(done):
        said = kevolve("resume", str(done))
    assert said.code == 2
    assert "process" in said.err
