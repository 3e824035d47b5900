"""The documentation: it builds without a warning, what is made from the code is current, its Python runs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kevolve_core.registry import PluginState, Registry, hookspecs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert (tmp_path / "site" / "vendors" / "tutorial" / "index.html").is_file()


@pytest.mark.parametrize("page", ["hooks.md", "capabilities.md", "checks.md"])
def test_a_page_made_from_the_code_is_current(page: str) -> None:
    now = tool("reference").pages()[page]
    assert now == (DOCS / "reference" / page).read_text(), "run: python tools/reference.py"


def test_every_hook_and_every_contribution_is_documented() -> None:
    text = (DOCS / "reference" / "hooks.md").read_text()
    hooks = [name for name in hookspecs.__all__ if name.startswith("kevolve_")]
    adds = [f"registry.{name}" for name in vars(Registry) if name.startswith("add_")]
    assert [name for name in (*hooks, *adds) if f"### `{name}`" not in text] == []
    assert [name for name in hooks if not getattr(hookspecs, name).__doc__] == []


def test_every_state_of_a_plugin_has_a_section_of_troubleshooting() -> None:
    sections = re.findall(r"^## (.+)$", (DOCS / "platforms" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert sections == [state.value for state in PluginState]


def test_the_toml_of_the_pages_is_valid(tmp_path: Path) -> None:
    from kevolve_core.registry.config import read_plugins_file
    from kevolve_core.testing.expect import read_expectations

    (plugins,) = blocks("platforms/plugins.md", "toml")
    (tmp_path / "plugins.toml").write_text(plugins)
    (tmp_path / "conformance.toml").write_text(blocks("vendors/conformance.md", "toml")[0])
    assert list(read_plugins_file(tmp_path / "plugins.toml").plugins) == ["acme"]
    assert read_expectations(tmp_path / "conformance.toml").backend == "acme"


@pytest.mark.slow
def test_the_python_of_the_embedding_guide_runs(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text("\n".join(blocks("platforms/embedding.md", "python")))
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_specification_of_the_quick_start_is_one(tmp_path: Path) -> None:
    from kevolve_core import load_spec

    (tmp_path / "scale_tanh.yaml").write_text(blocks("quickstart.md", "yaml")[0])
    assert [case.name for case in load_spec(tmp_path / "scale_tanh.yaml").cases] == ["wide", "odd"]
