"""The kit as a vendor meets it: the command, the pytest plugin, and the two reference backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kevolve_core.cli.app import run
from kevolve_core.registry import discover
from kevolve_core.testing import Outcome, run_suite, subject_of

TESTS = Path(__file__).resolve().parents[1]
TOY = TESTS / "toy_accelerator"


def vendor_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A vendor's own pytest run, outside of this repository's configuration."""
    path = os.pathsep.join([str(TOY / "src"), *(os.path.abspath(p) for p in sys.path if p)])
    command = [sys.executable, "-m", "pytest", "-p", "kevolve_core.testing.plugin", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), "-c", str(folder / "pytest.ini"), "-rA", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def vendor(folder: Path, more: str = "") -> None:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conformance.toml").write_text(f'schema = 1\nbackend = "toy"\ntiers = [0]\n{more}')
    (folder / "test_conformance.py").write_text(
        "from kevolve_core.testing.conformance import *\nimport pytest\n\n\n"
        "@pytest.mark.kevolve_capability('teleport')\ndef test_of_a_capability():\n    assert False\n\n\n"
        "@pytest.mark.kevolve_api(99, 0)\ndef test_of_an_api():\n    assert False\n\n\n"
        "@pytest.mark.kevolve_tier(2)\ndef test_of_a_tier():\n    assert False\n"
    )


def test_a_vendor_writes_one_import_and_gets_a_result(toy: Path, tmp_path: Path) -> None:
    vendor(tmp_path)
    chosen = "manifest or knowledge or expectations or test_of"
    done = vendor_pytest(tmp_path, "--kevolve-plugins", str(toy), "--kevolve-tier", "0", "-k", chosen)
    assert "3 passed, 3 skipped" in done.stdout, done.stdout
    assert "does not declare the capability 'teleport'" in done.stdout
    assert "needs plugin API 99.0" in done.stdout
    result = json.loads((tmp_path / "conformance.json").read_text())
    assert (result["schema"], result["backend"], result["conformant"]) == (1, "toy", True)
    assert [check["id"] for check in result["checks"]] == ["manifest.valid", "knowledge.pages"]


def test_an_expected_failure_that_passes_fails_in_pytest(toy: Path, tmp_path: Path) -> None:
    entry = '[[expected_failures]]\nid = "{}"\nreason = "r"\nissue = "i"\n'
    vendor(tmp_path, entry.format("manifest.valid") + entry.format("gone.check"))
    done = vendor_pytest(tmp_path, "--kevolve-plugins", str(toy), "-k", "manifest or expectations")
    assert "2 failed" in done.stdout
    assert "the entry is stale" in done.stdout
    assert "expected failures that are no check: gone.check" in done.stdout


def test_the_command_writes_the_result(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    chosen = ("--check", "manifest.valid", "--check", "compile.refuses")
    code = run(["conformance", "toy", "--plugins", str(toy), "--tier", "0", *chosen, "--json", str(file)])
    assert (code, json.loads(file.read_text())["counts"]["passed"]) == (0, 2)
    assert "toy on Toy 1 (toy:0) is conformant: 2 passed, evidence: simulated" in capsys.readouterr().out


def test_what_a_plugin_prints_is_not_in_the_json(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chatty.py").write_text(
        "from kevolve_toy.plugin import MANIFEST, ToyBackend\nfrom kevolve_core.registry import hookimpl\n\n"
        "def make(options):\n    print('hello from the vendor')\n    return ToyBackend()\n\n"
        "@hookimpl\ndef kevolve_register(registry):\n    registry.add_backend(MANIFEST, make)\n"
    )
    toy.write_text(f'schema = 1\n[plugins.toy]\npath = "{tmp_path / "chatty.py"}"\n')
    code = run(["conformance", "toy", "--plugins", str(toy), "--check", "manifest.valid", "--json", "-"])
    printed = capsys.readouterr()
    assert (code, json.loads(printed.out)["conformant"]) == (0, True)
    assert "hello from the vendor" in printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere"),
        (["toy", "--check", "manifest.vald"], "did you mean 'manifest.valid'?"),
        (["toy", "--expect", "absent.toml"], "absent.toml"),
        (["toy", "--tier", "5"], "5"),
    ],
)
def test_a_mistake_in_the_command_is_named(
    toy: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["conformance", *arguments, "--plugins", str(toy)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_toy_is_conformant(toy: Path) -> None:
    subject = subject_of(discover(toy), "toy")
    try:
        result = run_suite(subject, (0, 1))
    finally:
        subject.close()
    assert {check.id: check.message for check in result.checks if check.bad} == {}
    assert result.conformant
    assert [c.id for c in result.checks if c.outcome is Outcome.SKIPPED] == ["timing.wall"]


def test_the_toy_is_read_in_one_sitting() -> None:
    files = TOY.rglob("*.py")
    assert sum(len(file.read_text().splitlines()) for file in files) < 300
