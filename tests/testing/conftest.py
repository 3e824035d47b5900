"""The toy accelerator, importable here and in the processes that the kit starts."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A ``plugins.toml`` that lists the toy alone."""
    source = TESTS / "toy_accelerator" / "src"
    monkeypatch.syspath_prepend(str(source))
    file = tmp_path / "plugins.toml"
    file.write_text(f'schema = 1\n[plugins.toy]\npath = "{source / "kevolve_toy" / "plugin.py"}"\n')
    return file
