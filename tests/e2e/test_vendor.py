"""A vendor's first hour, in an environment of its own with wheels alone: the scaffold, and the tutorial."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from attrs import frozen

from tools.vendor_check import ROOT, Environment, check

pytestmark = pytest.mark.slow


@frozen
class Vendor:
    """The environment after all steps of the check; the steps, and the processor time of all, in seconds."""

    env: Environment
    steps: list[str]
    processor_seconds: float


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    folder = tmp_path_factory.mktemp("vendor")
    before = os.times()
    steps = list(check(folder, clean=False, tiers=[0], budget="2c", tell=print))
    after = os.times()
    used = sum(after[2:4]) - sum(before[2:4])  # of child processes, user and system
    return Vendor(Environment(folder / "venv" / "bin" / "python", folder / "work"), steps, used)


def test_a_scaffold_is_conformant_and_evolves_in_less_than_five_minutes(vendor: Vendor) -> None:
    assert vendor.steps == [
        "build the wheel of kevolve",
        "make an environment",
        "install kevolve",
        "see that no source tree is in reach",
        "kevolve plugin new",
        "build and install its wheel",
        "kevolve plugins list",
        "kevolve conformance",
        "kevolve evolve",
    ]
    assert vendor.processor_seconds < 300


def test_every_command_of_the_tutorial_works(vendor: Vendor) -> None:
    page = (ROOT / "docs" / "vendors" / "tutorial.md").read_text()
    commands = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    script = vendor.env.workdir / "tutorial.sh"
    settings = f"set -eu\nexport KEVOLVE={ROOT} PIP_NO_BUILD_ISOLATION=0 PIP_NO_INDEX=1\n"
    script.write_text(settings + "\n".join(commands))
    said = vendor.env.run("bash", script)
    assert "there is no instruction 'mystery'" in said
    assert re.search(r"^toy +ready", said, re.MULTILINE)
    assert "toy on Toy 1 (toy:0) is conformant" in said
    assert re.search(r"scale_tanh: .*simulated", said)


def test_what_the_tutorial_shows_is_the_toy_itself() -> None:
    page = (ROOT / "docs" / "vendors" / "tutorial.md").read_text()
    shown = re.findall(r'^--8<-- "(.+)"$', page, re.MULTILINE)
    modules = sorted((ROOT / "tests" / "toy_accelerator" / "src" / "kevolve_toy").glob("[a-z]*.py"))
    assert [str(m.relative_to(ROOT)) for m in modules if str(m.relative_to(ROOT)) not in shown] == []
    assert [path for path in shown if not Path(ROOT, path).is_file()] == []
