"""The toy's runner, whose launches wait for their turn. Waiting is nobody's time: the device's clock
stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kevolve_toy.plugin import ToyRunner

from kevolve_core.model import Artifact
from kevolve_farm.plugin import checkout


class FarmRunner(ToyRunner):
    """See `kevolve_core.interfaces.Runner`."""

    def __init__(self, queue_seconds: float) -> None:
        super().__init__()
        self._queue_seconds = queue_seconds

    def open(self, workdir: Path) -> None:
        checkout("open")

    def load(self, artifact: Artifact, candidate_dir: Path) -> Any:
        checkout("load")  # by now the worker is confined: this is what the grant opens
        return super().load(artifact, candidate_dir)

    def launch(self, kernel: list[Any], memory: Mapping[str, Any]) -> None:
        time.sleep(self._queue_seconds)
        super().launch(kernel, memory)
