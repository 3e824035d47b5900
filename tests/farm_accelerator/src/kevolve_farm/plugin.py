"""A device farm: the toy's language and programs, reached through a licence server and a queue of 5 s a
launch.

Both are fakes, but what they need is real: network in the compiler and in the confined worker, a variable of
the user's environment (``FARM_LICENCE``, ``host:port``), and time limits that do not count the waiting.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from kevolve_toy.plugin import MANIFEST as TOY
from kevolve_toy.plugin import ToyBackend

from kevolve_core.errors import ToolchainMissingError
from kevolve_core.interfaces import Compiler, Runner
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Candidate, Device, Target
from kevolve_core.registry import Registry, hookimpl

QUEUE_SECONDS = 5.0
_LICENCE = {"network": ["127.0.0.1:*"], "environment": ["FARM_LICENCE"]}

MANIFEST = attrs.evolve(
    TOY,
    name="farm",
    needs={"compile": _LICENCE, "run": {**_LICENCE, "queue": QUEUE_SECONDS}},
    options_schema={
        "type": "object",
        "properties": {
            "queue_seconds": {"type": "number", "minimum": 0, "description": "seconds a launch waits"}
        },
        "additionalProperties": False,
    },
    description="a farm of toy accelerators behind a licence server and a queue",
)


def checkout(what: str) -> None:
    """A licence for ``what``. Raises ToolchainMissingError where the server is not reached."""
    host, _, port = os.environ.get("FARM_LICENCE", "").rpartition(":")
    try:
        with socket.create_connection((host, int(port or 0)), timeout=5) as server:
            server.sendall(f"{what}\n".encode())
            answer = server.recv(64)
    except (OSError, ValueError) as error:
        raise ToolchainMissingError(
            "the licence server does not answer",
            got=f"{host}:{port}: {error}",
            where="FARM_LICENCE",
            mend="start it, and set FARM_LICENCE=host:port",
        ) from error
    if answer.strip() != b"GRANTED":
        raise ToolchainMissingError(
            "there is no licence", got=answer.decode(errors="replace"), mend="buy one"
        )


class FarmBackend(ToyBackend):
    """See `kevolve_core.interfaces.Backend`."""

    manifest = MANIFEST

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.queue_seconds = float(options.get("queue_seconds", QUEUE_SECONDS))

    def probe(self) -> Sequence[Device]:
        found = super().probe()
        return [
            attrs.evolve(d, id="farm:0", backend="farm", name="Farm 1", target=Target("farm", "toy1"))
            for d in found
        ]

    def compiler(self, device: Device) -> Compiler:
        return FarmCompiler(super().compiler(device))

    def runner(self, device: Device) -> Runner:
        from kevolve_farm.runner import FarmRunner

        return FarmRunner(self.queue_seconds)

    def knowledge(self) -> Iterable[Path]:
        here = Path(__file__).parent
        return tuple(p for p in (here / "knowledge", here.parents[1] / "knowledge") if p.is_dir())


class FarmCompiler:
    """The toy's compiler, which wants a licence for every build."""

    def __init__(self, inner: Compiler) -> None:
        self._inner = inner

    def check(self) -> None:
        """Raise `ToolchainMissingError` where there is no licence."""
        checkout("check")

    def compile(self, candidate: Candidate, spec: KernelSpec, case: Case, target: Target) -> Artifact:
        checkout("compile")
        return self._inner.compile(candidate, spec, case, target)


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, FarmBackend)
