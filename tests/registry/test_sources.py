"""Where a plugin's code is, and when what a probe saw of it is out of date."""

from __future__ import annotations

from pathlib import Path

from kevolve_core.registry.source import PluginSource


def test_a_plugin_given_by_its_file_is_probed_again_when_its_package_changes(tmp_path: Path) -> None:
    package = tmp_path / "kevolve_acme"
    package.mkdir()
    for name in ("__init__.py", "plugin.py", "facts.py"):
        (package / name).write_text("")
    source = PluginSource(file=str(package / "plugin.py"))
    before = source.fingerprint()
    (package / "facts.py").write_text("SPEED = 2\n")
    assert source.fingerprint() != before


def test_a_file_on_its_own_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("")
    source = PluginSource(file=str(tmp_path / "plugin.py"))
    before = source.fingerprint()
    (tmp_path / "other.py").write_text("")
    assert source.fingerprint() == before
