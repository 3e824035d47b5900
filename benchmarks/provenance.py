"""What a benchmark's result says of where it comes from."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["environment", "shown_command"]


def environment() -> dict[str, Any]:
    """Versions, machine, date and commit."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    versions = {}
    for name in ("kevolve", "numpy", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "versions": versions,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": done.stdout.strip() or "unknown",
    }


def shown_command(script: str, words: Sequence[str]) -> str:
    """A benchmark's command without folders of this machine."""
    shown = [Path(word).name if word.startswith("/") else word for word in words]
    return " ".join(["python", f"benchmarks/{script}", *shown])
