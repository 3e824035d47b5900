"""``plugins.toml`` and the environment: what they allow, grant and refuse."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kevolve_core.errors import ConfigError, PluginError
from kevolve_core.registry import discover
from kevolve_core.registry.config import read_plugins_file

SCHEMA = """
SCHEMA = {
    "type": "object",
    "properties": {"threads": {"type": "integer", "minimum": 1, "description": "threads a call"}},
    "additionalProperties": False,
}
"""


def states(registry) -> dict[str, str]:
    return {each.name: each.state.value for each in registry.statuses()}


@pytest.mark.parametrize(
    ("text", "key", "mend"),
    [
        ("schema = 1\n[plugins.cpu]\nenable = true", "plugins.cpu.enable", "did you mean 'enabled'?"),
        ("schema = 1\n[core]\nautoloads = 'all'", "core.autoloads", "did you mean 'autoload'?"),
        ("schema = 1\n[plugin.cpu]", "plugin", "did you mean 'plugins'?"),
        ("schema = 1\n[core]\nautoload = 'lsted'", "core.autoload", "did you mean 'listed'?"),
        ("[core]", "schema", "write `schema = 1` on its first line"),
        ("schema = 2", "schema", "pip install --upgrade kevolve"),
        ("schema = true", "schema", "schema = 1"),
        ("schema = 1\n[plugins.cpu]\npriority = true", "plugins.cpu.priority", "a whole number"),
        ("schema = 1\n[plugins]\ncpu = 'yes'", "plugins.cpu", "a table"),
        ("schema = 1\nplugins = 3", "plugins", "a table"),
        ("schema = 1\n[plugins.cpu]\nversion = '0.1'", "plugins.cpu.version", 'for example ">=0.1,<0.2"'),
        ("schema = 1\n[core]\nrequires-api = '>=2'", "core.requires-api", "plugin API >=2"),
        ("schema = 1\n[core]\nrequires-api = '2.0'", "core.requires-api", "plugin API 2.0"),
        ("schema = 1\n[plugins.x]\nrequired = true\nenabled = false", "plugins.x", "remove `required`"),
        ("schema = 1\n[plugins.x]\npath = '.'\nversion = '>1'", "plugins.x.version", "remove the version"),
        ("schema = 1\n[plugins.x.options]\nday = 2024-01-01", "plugins.x.options", "dates as strings"),
    ],
)
def test_a_mistake_names_file_key_and_mend(tmp_path: Path, text: str, key: str, mend: str) -> None:
    file = tmp_path / "plugins.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plugins_file(file)
    assert (caught.value.where, mend in (caught.value.mend or "")) == (f"{file}:{key}", True), caught.value


def test_a_toml_error_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "plugins.toml"
    file.write_text("schema = 1\n[core\n")
    with pytest.raises(ConfigError, match="line 2") as caught:
        read_plugins_file(file)
    assert caught.value.where == str(file)


def test_a_given_file_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such plugins file"):
        discover(tmp_path / "plugin.toml", environ={})


@pytest.mark.parametrize("asked", ["1.0", ">=1.0,<2", "1"])
def test_an_api_requirement_that_holds_is_accepted(tmp_path: Path, asked: str) -> None:
    file = tmp_path / "plugins.toml"
    file.write_text(f"schema = 1\n[core]\nrequires-api = '{asked}'")
    assert read_plugins_file(file).autoload == "listed"


def test_without_a_file_every_installed_plugin_loads(site) -> None:
    site.plugin("a")
    site.plugin("b")
    assert states(site.discover()) == {"a": "ready", "b": "ready"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("autoload", "expected"),
    [
        ("listed", {"a": "ready", "b": "disabled", "c": "ready"}),
        ("all", {"a": "ready", "b": "ready", "c": "ready"}),
        ("none", {"a": "disabled", "b": "disabled", "c": "ready"}),
    ],
)
def test_autoload_says_which_plugins_load(site, autoload: str, expected: dict[str, str]) -> None:
    for name in "abc":
        site.plugin(name)
    text = f"schema = 1\n[core]\nautoload = '{autoload}'\n[plugins.a]\n[plugins.c]\nenabled = true"
    assert states(site.discover(text)) == expected


def test_the_working_directory_s_file_is_read(site) -> None:
    site.plugin("a")
    Path("plugins.toml").write_text("schema = 1\n[plugins.a]\nenabled = false")
    assert states(site.discover()) == {"a": "disabled"}


def test_a_disabled_plugin_is_refused_with_its_cause_and_never_probed(site) -> None:
    mark = site.folder / "ran"
    site.plugin("a", before=f"open({str(mark)!r}, 'w').close()")
    registry = site.discover("schema = 1\n[plugins.a]\nenabled = false")
    with pytest.raises(PluginError, match=r"plugins\.a\.enabled is false"):
        registry.backend("a")
    assert (states(registry), mark.exists()) == ({"a": "disabled"}, False)


def test_a_listed_plugin_that_is_not_installed_is_unavailable_and_names_the_package(site) -> None:
    registry = site.discover("schema = 1\n[plugins.gpu]\ndistribution = 'acme-gpu'")
    (found,) = registry.statuses()
    assert (found.state, found.cause, found.mend) == (
        "unavailable",
        "it is not installed",
        "pip install acme-gpu, or remove its name",
    )


def test_a_mistyped_plugin_name_is_answered_with_the_installed_one(site) -> None:
    site.plugin("tpu")
    registry = site.discover("schema = 1\n[plugins.tpuu]")
    assert {each.name: each.mend.rpartition("; ")[2] for each in registry.statuses()} == {
        "tpu": f"add [plugins.tpu] to {site.folder / 'plugins.toml'}",
        "tpuu": "did you mean 'tpu'?",
    }


def test_the_version_asked_for_decides(site) -> None:
    site.plugin("a", version="1.5")
    fitting = site.discover("schema = 1\n[plugins.a]\nversion = '>=1,<2'")
    other = site.discover("schema = 1\n[plugins.a]\nversion = '>=2'")
    assert (states(fitting), states(other)) == ({"a": "ready"}, {"a": "incompatible"})
    assert other.statuses()[0].mend == "pip install 'kevolve-a>=2'"


def test_options_reach_the_backend(site) -> None:
    site.plugin("a", SCHEMA)
    backend = site.discover("schema = 1\n[plugins.a.options]\nthreads = 3").backend("a")
    assert backend.options == {"threads": 3}


@pytest.mark.parametrize(
    ("option", "key", "words"),
    [
        ("thread = 3", "plugins.a.options.thread", ["no option 'thread'", "did you mean 'threads'?"]),
        ("threads = 0", "plugins.a.options.threads", ["0 is less than the minimum of 1", "threads a call"]),
    ],
)
def test_a_bad_option_is_a_config_error_that_names_file_and_key(site, option: str, key: str, words) -> None:
    site.plugin("a", SCHEMA)
    registry = site.discover(f"schema = 1\n[plugins.a.options]\n{option}")
    with pytest.raises(ConfigError) as caught:
        registry.backend("a")
    missing = [word for word in words if word not in str(caught.value)]
    assert caught.value.where == f"{site.folder / 'plugins.toml'}:{key}"
    assert (missing, states(registry)) == ([], {"a": "broken"}), str(caught.value)


@pytest.mark.parametrize("layout", ["file", "package", "project", "src"])
def test_a_path_may_be_a_file_a_folder_or_a_project(site, layout: str) -> None:
    text = (site.lib / f"{site.module('near')}.py").read_text()
    (site.lib / "fake_near.py").unlink()
    root = site.folder / "vendor"
    place = {
        "file": root / "plugin.py",
        "package": root / "kevolve_near" / "plugin.py",
        "project": root / "fake_inner" / "entry.py",
        "src": root / "src" / "kevolve_near" / "plugin.py",
    }[layout]
    place.parent.mkdir(parents=True)
    place.write_text(text)
    if layout == "project":
        (root / "pyproject.toml").write_text(
            "[project.entry-points.'kevolve.plugins.v1']\nnear = 'fake_inner.entry'"
        )
    path = "vendor/plugin.py" if layout == "file" else "vendor"
    registry = site.discover(f"schema = 1\n[plugins.near]\npath = '{path}'")
    assert registry.backend("near").manifest.name == "near"


@pytest.mark.slow
def test_two_plugin_files_of_one_name_are_two_plugins(site) -> None:
    for name in ("a", "b"):
        (site.folder / name).mkdir()
        text = (site.lib / f"{site.module(name)}.py").read_text()
        (site.folder / name / "plugin.py").write_text(text)
    registry = site.discover(
        "schema = 1\n[plugins.a]\npath = 'a/plugin.py'\n[plugins.b]\npath = 'b/plugin.py'"
    )
    assert [registry.backend(name).manifest.name for name in "ab"] == ["a", "b"]


def test_a_wrong_path_breaks_only_its_plugin(site) -> None:
    site.plugin("good")
    registry = site.discover("schema = 1\n[plugins.good]\n[plugins.x]\npath = 'nowhere'")
    assert states(registry) == {"good": "ready", "x": "broken"}
    with pytest.raises(ConfigError, match="nowhere"):
        registry.backend("x")


def test_a_required_plugin_that_is_not_ready_stops_a_run_but_no_listing(site) -> None:
    site.plugin("good")
    registry = site.discover("schema = 1\n[plugins.good]\n[plugins.gpu]\nrequired = true")
    assert states(registry) == {"good": "ready", "gpu": "unavailable"}
    with pytest.raises(PluginError, match="required plugin 'gpu' is not ready"):
        registry.backend("good")


def test_kevolve_plugins_allows_only_those_it_names(site) -> None:
    site.plugin("a")
    site.plugin("b")
    registry = site.discover(KEVOLVE_PLUGINS=" a , typo")
    assert states(registry) == {"a": "ready", "b": "disabled", "typo": "unavailable"}


def test_strict_plugins_stop_a_run_for_any_that_is_not_ready(site) -> None:
    site.plugin("good")
    site.plugin("bad", before="raise ValueError('x')")
    with pytest.raises(PluginError, match="KEVOLVE_STRICT_PLUGINS"):
        site.discover(KEVOLVE_STRICT_PLUGINS="1").backend("good")
    text = "schema = 1\n[plugins.good]\n[plugins.bad]\nenabled = false"
    assert site.discover(text, KEVOLVE_STRICT_PLUGINS="1").backend("good").manifest.name == "good"


@pytest.mark.parametrize(
    ("name", "value"), [("KEVOLVE_STRICT_PLUGINS", "maybe"), ("KEVOLVE_PROBE_SECONDS", "-1")]
)
def test_a_bad_variable_is_a_config_error(site, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        site.discover(**{name: value})


def test_the_repository_s_own_file_is_valid() -> None:
    file = Path(__file__).parents[2] / "plugins.toml"
    read = read_plugins_file(file)
    assert list(read.plugins) == list(tomllib.loads(file.read_text())["plugins"])
