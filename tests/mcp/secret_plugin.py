"""A backend that is confidential in every part: nothing with the canary in it may reach an agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kevolve_core.interfaces import API_VERSION, Baseline, Manifest
from kevolve_core.model import Device, Target
from kevolve_core.registry import Registry, hookimpl

CANARY = "zanzibar-canary"

MANIFEST = Manifest(
    name="secret",
    api_version=API_VERSION,
    languages=("python",),
    capabilities=frozenset({"compile", "run", "time"}),
    description=f"under embargo, {CANARY}",
    confidential=True,
)
DEVICE = Device(
    id="secret:0",
    backend="secret",
    name=f"Chip {CANARY}",
    target=Target("secret", f"arch-{CANARY}"),
    facts={"sram_bytes": 1 << 20, "codename": CANARY},
)


class SecretBackend:
    """As the toy backend, with pages."""

    manifest = MANIFEST

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def probe(self) -> Sequence[Device]:
        return (DEVICE,)

    def baselines(self, spec: object, device: Device) -> Sequence[Baseline]:
        del spec, device
        return (Baseline("eager", "eager", "x:y"), Baseline("torch.compile", "compiled", "x:z"))

    def standalone_loader(self, language: str) -> str:
        del language
        return ""

    def knowledge(self) -> Sequence[Path]:
        return (Path(__file__).parent / "secret_pages",)


@hookimpl
def kevolve_register(registry: Registry) -> None:
    registry.add_backend(MANIFEST, SecretBackend)
