"""Installed plugins of every kind of fault, seen through the command line: each is told apart, and none
stands in the way of another command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from attrs import frozen

from tests.double.plugin import SPEC
from tests.e2e.conftest import Done, environment, kevolve
from tests.registry.conftest import Site

pytestmark = pytest.mark.slow

TOY = Path(__file__).parents[1] / "double" / "plugin.py"

SEGFAULT = "def _crash(self):\n    import ctypes\n    ctypes.string_at(0)\nFakeBackend.probe = _crash"
HANG = "def _hang(self):\n    import time\n    time.sleep(3600)\nFakeBackend.probe = _hang"
NEEDY = """
import attrs
_plain = manifest
def manifest():
    return attrs.evolve(_plain(), needs={"run": {"network": ["licence.example.com:27000"], "queue": 5}})
"""

#: plugin -> its state, and words of its cause and of its mend
EXPECTED = {
    "toy": ("ready", "", ""),
    "next": ("incompatible", "built for plugin API 2.0", "pip install 'kevolve>"),
    "lacking": ("broken", "No module named 'acme_sdk'", "provides the Python module 'acme_sdk'"),
    "raising": ("broken", "RuntimeError: no licence (while importing it)", "kevolve plugins doctor"),
    "crashing": ("broken", "SIGSEGV while probing backend 'crashing'", "enabled = false"),
    "hanging": ("broken", "no answer within 12 s while probing backend 'hanging'", "KEVOLVE_PROBE_SECONDS"),
    "alpha": ("ready", "", ""),
    "beta": ("broken", "backend 'gpu' is already provided by plugin 'alpha'", "priority = 1"),
    "twin": ("ready", "", ""),
    "twin (kevolve-other)": ("broken", "already used by distribution 'kevolve-first'", "distribution"),
    "needy": ("unavailable", "network to licence.example.com:27000", "kevolve plugins grant needy"),
}


@frozen
class Installed:
    """A folder of installed plugins, and the command line that sees it."""

    site: Site
    folder: Path

    def kevolve(self, *arguments: object, **env: str) -> Done:
        path = os.pathsep.join([str(self.site.lib), environment()["PYTHONPATH"]])
        return kevolve(
            *arguments,
            env={**self.site.environ, "KEVOLVE_PROBE_SECONDS": "12", "PYTHONPATH": path, **env},
            cwd=self.folder,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("states")
    site = Site(folder)
    (site.lib / "fake_toy.py").write_text(TOY.read_text())
    site.metadata("kevolve-toy", "1.0", "toy = fake_toy")
    site.plugin("next", "API = (2, 0)")
    site.plugin("lacking", before="import acme_sdk")
    site.plugin("raising", before="raise RuntimeError('no licence')")
    site.plugin("crashing", SEGFAULT)
    site.plugin("hanging", HANG)
    site.plugin("alpha", "NAME = 'gpu'")
    site.plugin("beta", "NAME = 'gpu'")
    site.plugin("twin", dist="kevolve-first")
    site.metadata("kevolve-other", "1.0", "twin = fake_twin")
    site.plugin("needy", NEEDY)
    work = folder / "work"
    work.mkdir()
    (work / "spec.yaml").write_text(SPEC)
    made = Installed(site, work)
    assert made.kevolve("plugins", "list").code == 0  # probes once; what follows reads the cache
    return made


def test_each_plugin_is_listed_with_its_state_cause_and_mend(installed: Installed) -> None:
    done = installed.kevolve("plugins", "list", "--json")
    found = {each["name"]: each for each in json.loads(done.out)}
    assert done.code == 0
    assert {name: found[name]["state"] for name in EXPECTED} == {n: e[0] for n, e in EXPECTED.items()}
    for name, (_, cause, mend) in EXPECTED.items():
        assert cause in found[name]["cause"], name
        assert mend in found[name]["mend"], name


def test_the_list_for_people_has_the_same_words(installed: Installed) -> None:
    out = installed.kevolve("plugins", "list").out
    assert [cause for _, cause, _ in EXPECTED.values() if cause not in out] == []
    assert "Traceback" not in out


@pytest.mark.parametrize("name", ["next", "lacking", "raising", "crashing", "hanging", "beta", "needy"])
def test_asking_for_a_plugin_that_is_not_ready_says_why(installed: Installed, name: str) -> None:
    done = installed.kevolve("evolve", "spec.yaml", "--backend", name, "--out", f"run-{name}")
    assert (done.code, done.out) == (2, "")
    cause = EXPECTED[name][1] if name != "beta" else "plugin 'beta'"
    assert cause in done.err
    assert "Traceback" not in done.err


def test_every_other_command_works(installed: Installed) -> None:
    (installed.folder / "listed.toml").write_text("schema = 1\n[plugins.toy]\n[plugins.hanging]\n")
    ran = {
        words: installed.kevolve(*words.split()).code
        for words in (
            "--help",
            "spec check spec.yaml --backend cpu",
            "evolve spec.yaml --backend toy --generator toy --executor toy --budget 3c --out run",
            "show run",
            "compare run run",
            "plugins requirements --plugins listed.toml",
            "plugins disable hanging --plugins listed.toml",
            "plugins enable hanging --plugins listed.toml",
            "plugin new chip --out kevolve-chip",
        )
    }
    assert {words: code for words, code in ran.items() if code} == {}


def test_a_disabled_plugin_is_not_looked_at(installed: Installed) -> None:
    assert installed.kevolve("plugins", "disable", "hanging").code == 0
    try:
        found = json.loads(installed.kevolve("plugins", "list", "--json").out)
        states = {each["name"]: each["state"] for each in found}
        assert (states["hanging"], states["toy"]) == ("disabled", "ready")
    finally:
        (installed.folder / "plugins.toml").unlink()


def test_strict_refuses_every_run_and_an_allow_list_lets_it_through(installed: Installed) -> None:
    words = ("evolve", "spec.yaml", "--backend", "toy", "--generator", "toy", "--executor", "toy")
    end = ("--budget", "2c", "--out")
    refused = installed.kevolve(*words, *end, "run-strict", KEVOLVE_STRICT_PLUGINS="1")
    assert refused.code == 2
    assert "KEVOLVE_STRICT_PLUGINS" in refused.err
    alone = {"KEVOLVE_STRICT_PLUGINS": "1", "KEVOLVE_PLUGINS": "toy"}
    assert installed.kevolve(*words, *end, "run-alone", **alone).code == 0
