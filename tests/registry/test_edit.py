"""Changing a plugins.toml by command keeps all that a user wrote in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.cli.app import run
from kevolve_core.errors import ConfigError
from kevolve_core.registry.config import read_plugins_file
from kevolve_core.registry.edit import grant, switch
from kevolve_core.registry.needs import Needs
from kevolve_core.registry.requirements import requirements

TEXT = """\
# ours
schema = 1

[core]
autoload = "all"   # everything

[plugins.acme]  # the chip
distribution = 'kevolve-acme'  # single quotes
enabled = true # for now
version = ">=0.3"

[plugins.other]
"""


def written(folder: Path, text: str = TEXT) -> Path:
    file = folder / "plugins.toml"
    file.write_text(text)
    return file


def test_disabling_changes_one_word(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert switch(file, "acme", enabled=False)
    assert file.read_text() == TEXT.replace("enabled = true # for now", "enabled = false # for now")


def test_a_plugin_without_a_table_gets_one_at_the_end(tmp_path: Path) -> None:
    file = written(tmp_path)
    switch(file, "new", enabled=False)
    assert file.read_text().startswith(TEXT.rstrip())
    assert read_plugins_file(file).plugins["new"].enabled is False


def test_what_is_so_already_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert not switch(file, "acme", enabled=True)
    assert file.read_text() == TEXT


def test_without_a_file_one_is_made_under_which_every_other_plugin_loads(tmp_path: Path) -> None:
    file = tmp_path / "plugins.toml"
    assert switch(file, "acme", enabled=False)
    read = read_plugins_file(file)
    assert (read.autoload, list(read.plugins)) == ("all", ["acme"])


def test_a_change_that_the_file_would_not_survive_leaves_it_as_it_was(tmp_path: Path) -> None:
    text = TEXT.replace("enabled = true", "required = true")
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match="required and disabled") as caught:
        switch(file, "acme", enabled=False)
    assert (file.read_text(), caught.value.where) == (text, f"{file}:plugins.acme")
    assert [path.name for path in tmp_path.iterdir()] == ["plugins.toml"]


def test_a_damaged_file_is_not_touched(tmp_path: Path) -> None:
    file = written(tmp_path, "schema = 1\n[plugins.acme\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        switch(file, "acme", enabled=False)
    assert file.read_text() == "schema = 1\n[plugins.acme\n"


def test_a_link_is_followed_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = written(tmp_path / "real")
    file.chmod(0o640)
    link = tmp_path / "plugins.toml"
    link.symlink_to(file)
    switch(link, "acme", enabled=False)
    assert (link.is_symlink(), file.stat().st_mode & 0o777) == (True, 0o640)


def test_granting_adds_to_what_is_granted(tmp_path: Path) -> None:
    file = written(tmp_path, TEXT + '[plugins.other.grants]\nnetwork = ["a:1"]  # checked\n')
    grant(file, "other", Needs(network=("a:1", "b:2"), queue=5))
    granted = read_plugins_file(file).plugins["other"].grants
    assert granted == Needs(network=("a:1", "b:2"), queue=5)
    assert "# checked" in file.read_text()


def test_requirements_are_what_pip_takes(tmp_path: Path) -> None:
    project = tmp_path / "local"
    project.mkdir()
    (project / "pyproject.toml").write_text("[project]\nname = 'kevolve-local'\n")
    (tmp_path / "one.py").write_text("")
    file = written(
        tmp_path,
        """
schema = 1
[plugins.acme]
distribution = "Acme-Kevolve"
version = ">=0.3,<0.4"
[plugins.acme_two]
distribution = "acme_kevolve"
version = "!=0.3.1"
[plugins.plain]
[plugins.local]
path = "local"
[plugins.one]
path = "one.py"
[plugins.gone]
enabled = false
""",
    )
    assert list(requirements(read_plugins_file(file))) == [
        "acme_kevolve!=0.3.1,<0.4,>=0.3",
        "kevolve-plain",
        f"-e {project}",
        f"# one: loaded from {tmp_path / 'one.py'}, nothing to install",
        "# gone: disabled",
    ]


def test_of_a_file_that_is_not_valid_no_requirement_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, 'schema = 1\n[plugins.acme]\nversion = "newest"\n')
    assert run(["plugins", "requirements", "--plugins", str(file)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, "newest" in printed.err) == ("", True)
