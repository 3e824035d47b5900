"""How a run takes up what is known: the language that was asked for, and experience it may use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve

from kevolve_core.api.memory import memory_of
from kevolve_core.api.parts import Place, generator_of
from kevolve_core.errors import ConfigError
from kevolve_core.interfaces import Manifest
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge import Page
from kevolve_core.knowledge.catalogue import entries
from kevolve_core.knowledge.experience import signature_of
from kevolve_core.knowledge.experience.book import write_page
from kevolve_core.model import Device, Target
from kevolve_core.registry import Registry

SPEC: KernelSpec = next(entry for entry in entries() if entry.name == "softmax").spec()
DEVICE = Device("vax:0", "vax", "VAX 9000", Target("vax", "v9"))
MANIFEST = Manifest("vax", (1, 0), ("cpp", "triton"), frozenset({"compile"}))


class VaxBackend:
    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def probe(self) -> tuple[Device, ...]:
        return (DEVICE,)

    def renderers(self) -> dict[str, Any]:
        return {name: SimpleNamespace(language=name) for name in ("cpp", "triton")}

    def schedule_space(self, *_arguments: object) -> None:
        return None

    def knowledge(self) -> tuple[Path, ...]:
        return ()


def place(folder: Path | None = None, *, confidential: bool = False) -> Place:
    registry = Registry()
    manifest = evolve(MANIFEST, confidential=confidential)
    registry.add_backend(manifest, lambda _options: VaxBackend(manifest))  # type: ignore[arg-type, return-value]
    if folder is not None:
        registry.add_knowledge(folder)
    return Place(registry, "vax", registry.backend("vax"), DEVICE)


def skill(folder: Path, *, confidential: bool, derived: tuple[str, ...] = (), backend: str = "vax") -> Path:
    data = {
        "genome": {"generator": "synth", "language": "cpp"}, "language": "cpp", "score": 2.0,
        "backend": backend, "arch": "v9", "signature": signature_of(SPEC).plain(),
    }  # fmt: skip
    page = Page(
        "skills/vax/x", "x", "skills", "text", sources=("a run",), data=data, confidential=confidential
    )
    write_page(page.tainted(*derived) if derived else page, folder)
    return folder


def warmed(where: Place, mode: str = "split") -> int:
    found = memory_of(mode, where, SPEC, generator_of("synth", where, SPEC))
    return 0 if found is None else len(found.experience)


def test_an_accepted_skill_warms_up_a_run(tmp_path: Path) -> None:
    where = place(skill(tmp_path, confidential=False))
    assert [warmed(where, mode) for mode in ("off", "warm", "split")] == [0, 1, 1]


def test_a_confidential_skill_warms_up_runs_of_a_confidential_backend_only(tmp_path: Path) -> None:
    folder = skill(tmp_path, confidential=True)
    assert warmed(place(folder)) == 0
    assert warmed(place(folder, confidential=True)) == 1


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"derived": ("backend:vax",)}, 1),
        ({"derived": ("backend:vax", "page:guidance/secret")}, 0),
        ({"derived": ("backend:pdp",), "backend": "pdp"}, 0),
        ({"backend": "pdp"}, 0),
    ],
)
def test_no_genome_carries_what_its_run_is_not_tainted_with(
    tmp_path: Path, origin: dict[str, Any], expected: int
) -> None:
    """A provider that may see one confidential backend sees nothing of another, nor of a page."""
    assert warmed(place(skill(tmp_path, confidential=True, **origin), confidential=True)) == expected


def test_a_language_that_was_asked_for_is_the_only_one_written() -> None:
    made: Any = generator_of("synth", place(), SPEC, {"synth": {"language": "triton"}})
    assert list(made._renderers) == ["triton"]


def test_a_language_that_synth_does_not_write_is_refused() -> None:
    with pytest.raises(ConfigError, match="synth does not write 'cuda' on backend 'vax'") as raised:
        generator_of("synth", place(), SPEC, {"synth": {"language": "cuda"}})
    assert raised.value.mend == "it writes: cpp, triton"
