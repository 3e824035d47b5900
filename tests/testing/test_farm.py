"""An out-of-tree backend with its own language, no PyTorch device, a licence server and a queue, without an
edit of core.

The queue is short here; ``python tests/farm_accelerator/demo.py`` has the five seconds that the manifest
declares.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kevolve_core.errors import PluginError, ToolchainMissingError
from kevolve_core.registry import discover
from kevolve_core.testing import run_suite, subject_of

FARM = Path(__file__).resolve().parents[1] / "farm_accelerator"


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"farm_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


demo = _module(FARM / "demo.py")


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A licence server that runs; what it granted."""
    monkeypatch.syspath_prepend(str(FARM.parent / "toy_accelerator" / "src"))
    monkeypatch.syspath_prepend(str(FARM / "src"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = _module(FARM / "src" / "kevolve_farm" / "licence_server.py").LicenceServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FARM_LICENCE", server.address)
    yield server.granted
    server.shutdown()
    server.server_close()


def test_the_farm_is_conformant_without_hardware(granted: list[str], tmp_path: Path) -> None:
    subject = subject_of(discover(demo.plugins_file(tmp_path, 0.01)), "farm")
    try:
        result = run_suite(subject, (0,))
    finally:
        subject.close()
    assert {check.id: check.message for check in result.checks if check.bad} == {}
    assert "compile" in granted


def test_without_its_grants_the_farm_says_what_to_grant(granted: list[str], tmp_path: Path) -> None:
    file = demo.plugins_file(tmp_path, 0.01)
    file.write_text(file.read_text().partition("[plugins.farm.grants]")[0])
    with pytest.raises(PluginError, match="kevolve plugins grant farm"):
        discover(file).backend("farm")
    assert granted == []


def test_a_licence_server_that_is_down_is_a_missing_toolchain(
    granted: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del granted
    monkeypatch.setenv("FARM_LICENCE", "127.0.0.1:9")
    backend = discover(demo.plugins_file(tmp_path, 0.01)).backend("farm")
    with pytest.raises(ToolchainMissingError, match="FARM_LICENCE=host:port"):
        backend.compiler(backend.probe()[0]).check()


@pytest.mark.slow
def test_synthesis_evolves_an_operator_on_the_farm(granted: list[str]) -> None:
    row = demo.evolved("bias_relu", 0.01, 2)
    assert (row["language"], row["evidence"], row["against"]) == ("toy", "simulated", "unfused")
    assert (row["improved"], row["confirmed"]) == (True, True)
    assert {"open", "load", "compile"} <= set(granted)
