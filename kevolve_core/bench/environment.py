"""Where a benchmark's figures come from: device, versions, commit and date."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["commit", "environment"]

_PACKAGES = ("kevolve", "torch", "triton", "numpy")


def environment(device: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON values for a result's ``environment``. ``device`` is its name; packages that are not there are
    left out."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device,
        **versions,
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        **(more or {}),
    }


def commit() -> str:
    """``KEVOLVE_COMMIT`` of the environment, which whoever carries a copy without its history sets; else the
    commit of this source tree; ``unknown`` where neither is there."""
    if given := os.environ.get("KEVOLVE_COMMIT"):
        return given
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, cwd=Path(__file__).parent, check=False,
        )  # fmt: skip
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
