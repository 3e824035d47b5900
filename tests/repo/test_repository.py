"""The repository itself: what a fresh clone needs, and rules that no single module can keep."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "kevolve_core").rglob("*.py"))


def make(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    # The tests may themselves be run by make: its variables would change how this one prints.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment = {**own, **({"PATH": path} if path is not None else {})}
    tool = shutil.which("make")
    assert tool is not None
    return subprocess.run([tool, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_make_alone_explains_its_targets() -> None:
    said = make()
    assert said.returncode == 0
    assert [line.split()[1] for line in said.stdout.splitlines()] == ["demo", "test", "check", "clean"]


def test_a_wrong_python_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    said = make("demo", f"VENV={tmp_path / 'venv'}", "PYTHON=/no/python")
    assert said.returncode == 2
    assert "no Python 3.11 or 3.12 found at '/no/python'" in said.stderr
    assert not (tmp_path / "venv").exists()


def test_a_missing_compiler_is_named_before_anything_is_installed(tmp_path: Path) -> None:
    said = make("demo", f"VENV={tmp_path / 'venv'}", path=str(tmp_path))
    assert said.returncode == 2
    assert "apt-get install g++" in said.stderr
    assert not (tmp_path / "venv").exists()


def test_what_ci_runs_is_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


def test_the_readme_shows_the_pip_lines_that_make_stands_for() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "pip install --constraint constraints.txt --editable . --editable backends/cpu" in readme


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_command_is_installed_by_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"kevolve": "kevolve_core.cli:main"}


def test_nothing_imported_is_undeclared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^a-z]", name)[0] for name in project["dependencies"]}
    used = {"attrs", "cattrs", "click", "fsspec", "jsonschema", "matplotlib", "packaging", "pluggy", "rich"}
    assert used - declared == set()


@pytest.mark.parametrize("backend", ["kevolve_cpu", "nvidia", "amdgpu", "mtia"])
def test_the_core_names_no_backend(backend: str) -> None:
    named = [str(file.relative_to(ROOT)) for file in CORE if backend in file.read_text().lower()]
    assert named == []
