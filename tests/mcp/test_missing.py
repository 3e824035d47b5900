"""Without the package ``mcp``."""

from __future__ import annotations

import sys

import pytest

from kevolve_core.errors import ToolchainMissingError
from kevolve_core.mcp import serve
from kevolve_core.registry import Registry


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mcp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "kevolve_core.mcp.server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ToolchainMissingError, match=r"pip install 'kevolve\[mcp\]'"):
        serve(Registry())
