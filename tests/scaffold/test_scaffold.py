"""`kevolve plugin new`: names, folders, and that what is written is whole and in house style."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kevolve_core.api.parts import generator_of, place
from kevolve_core.cli.app import run
from kevolve_core.errors import ConfigError
from kevolve_core.interfaces import API_VERSION, Proposal
from kevolve_core.registry import ENTRY_POINT_GROUP, Registry
from kevolve_core.registry.source import PluginSource
from kevolve_core.scaffold import scaffold
from kevolve_core.spec import load_spec
from tests.registry.conftest import Site

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("Acme", "did you mean 'acme'?"),
        ("acme-npu", "did you mean 'acme_npu'?"),
        ("acme__npu", "did you mean 'acme_npu'?"),
        ("2acme", "beginning with a letter"),
        ("", "beginning with a letter"),
        ("../acme", "did you mean 'acme'?"),
        ("ácme", "lower-case letters"),
        ("class", "the name of the company"),
        ("torch", "the name of the company"),
        ("a" * 41, "lower-case letters"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(tmp_path: Path, name: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scaffold(name, tmp_path / "out")
    assert mend in (caught.value.mend or "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        scaffold("acme", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_is_filled_and_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert scaffold("acme", tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="there is a file"):
        scaffold("acme", tmp_path / "file")


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["plugin", "new", "acme", "--out", str(tmp_path / "kevolve-acme")])
    out = capsys.readouterr().out
    assert (code, "kevolve conformance acme --tier 0" in out) == (0, True)


def test_the_commands_it_prints_can_be_pasted_from_a_folder_with_a_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new chip's"
    assert run(["plugin", "new", "newchip", "--out", str(folder)]) == 0
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert printed[0] == ["pip", "install", "--editable", str(folder)]
    assert printed[2][2] == str(folder / "scale_tanh.yaml")


def test_a_name_that_an_installed_plugin_has_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    site = Site(tmp_path / "site")
    site.metadata("kevolve-newchip", "1.0", "newchip = fake_newchip")
    site.metadata("other-vendor", "1.0", "otherchip = fake_otherchip")
    monkeypatch.syspath_prepend(str(site.lib))
    for name in ("newchip", "otherchip", "freechip"):
        assert run(["plugin", "new", name, "--out", str(tmp_path / name)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: kevolve-newchip offers a plugin 'newchip' here already, and installing this one replaces it; "
        "another name keeps both",
        "note: other-vendor offers a plugin 'otherchip' here already; another name keeps both",
    ]


def test_no_mark_of_a_template_is_left_and_nothing_is_missing(tmp_path: Path) -> None:
    written = scaffold("acme_npu", tmp_path / "out")
    assert all(path.is_file() for path in written)
    names = {str(path.relative_to(tmp_path / "out")) for path in written}
    assert {
        "pyproject.toml", "README.md", "conformance.toml", "scale_tanh.yaml", "tests/test_conformance.py",
        "tests/test_generator.py", "src/kevolve_acme_npu/generator.py", "src/kevolve_acme_npu/plugin.py",
        "src/kevolve_acme_npu/knowledge/blocks.md",
    } <= names  # fmt: skip
    left = ("@name@", "@Name@", "@api@", "@core@", "@next@", "@group@")
    assert [(p, mark) for p in written for mark in left if mark in p.read_text()] == []


def test_its_metadata_names_the_entry_point_and_this_api(tmp_path: Path) -> None:
    scaffold("acme", tmp_path / "out")
    project = tomllib.loads((tmp_path / "out" / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {ENTRY_POINT_GROUP: {"acme": "kevolve_acme.plugin"}}
    assert f"api_version={API_VERSION}" in (tmp_path / "out/src/kevolve_acme/plugin.py").read_text()


def test_it_registers_and_finds_its_device(tmp_path: Path) -> None:
    scaffold("newchip", tmp_path / "out")
    plugin = PluginSource(module="kevolve_newchip.plugin", folder=str(tmp_path / "out" / "src")).load()
    registry = Registry()
    registry.register(plugin, name="newchip")
    assert [device.id for device in registry.devices("newchip")] == ["newchip:0"]


def test_its_generator_and_renderer_pass_the_tests_that_come_with_it(tmp_path: Path) -> None:
    scaffold("newchip", tmp_path / "out")
    paths = [str(tmp_path / "out" / "src"), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_generator.py", "tests/test_renderer.py"],
        cwd=tmp_path / "out",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "16 passed" in done.stdout) == (0, True), done.stdout


def test_a_mix_with_synth_asks_its_generator(tmp_path: Path) -> None:
    scaffold("otherchip", tmp_path / "out")
    plugin = PluginSource(module="kevolve_otherchip.plugin", folder=str(tmp_path / "out" / "src")).load()
    registry = Registry()
    registry.register(plugin, name="otherchip")
    spec = load_spec(tmp_path / "out" / "scale_tanh.yaml")
    where = place(spec, "otherchip", registry=registry)
    mix = generator_of("synth+otherchip", where, spec)
    asked = [
        Proposal(spec, where.device, sequence=n, seed=0, part=part)
        for n, part in enumerate(("synth", "otherchip", "otherchip"))
    ]
    found = [asyncio.run(mix.propose(each, 1)) for each in asked]
    assert [each.origin.generator for (each,) in found] == ["synth", "otherchip", "otherchip"]
    assert len({each.id for (each,) in found}) == 3


def test_its_code_keeps_the_linters_quiet(tmp_path: Path) -> None:
    scaffold("acme", tmp_path / "out")
    rules = ["--select", "E,F,W,I,UP,B,C4,SIM,PT,N,RET,PIE", "--ignore", "SIM108,RET505,PT011"]
    checked, formatted = (
        subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--isolated", "--line-length", "110", "."],
            cwd=tmp_path / "out",
            capture_output=True,
            text=True,
        )
        for words in (["check", *rules], ["format", "--check"])
    )
    assert (checked.stdout, checked.returncode) == ("All checks passed!\n", 0)
    assert formatted.returncode == 0, formatted.stdout
