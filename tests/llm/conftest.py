"""Makes the helpers beside it importable under pytest's importlib mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from scripted import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that answers by a script; see `ScriptedServer`."""
    made = ScriptedServer()
    yield made
    made.close()
