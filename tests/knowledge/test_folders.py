"""Which folders a run's knowledge comes from, and that one plugin's fault hides nobody else's pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.errors import UnknownNameError
from kevolve_core.interfaces import Manifest
from kevolve_core.knowledge import base_for, user_folders
from kevolve_core.knowledge.experience.book import write_page
from kevolve_core.knowledge.folders import ready_base, with_user_folders
from kevolve_core.knowledge.page import Page
from kevolve_core.model import Device, Target
from kevolve_core.registry import Registry


class FakeBackend:
    def __init__(self, manifest: Manifest, folder: Path | None) -> None:
        self.manifest = manifest
        self.folder = folder

    def probe(self) -> tuple[Device, ...]:
        return (Device("fake:0", self.manifest.name, "chip", Target(self.manifest.name, "a1")),)

    def knowledge(self) -> tuple[Path, ...]:
        if self.folder is None:
            raise RuntimeError("the disk with the pages is gone")
        return (self.folder,)


def registry(folder: Path | None, *, confidential: bool = False) -> Registry:
    made = Registry()
    manifest = Manifest("fake", (1, 0), ("cpp",), frozenset({"compile"}), confidential=confidential)
    made.add_backend(manifest, lambda _options: FakeBackend(manifest, folder))  # type: ignore[arg-type, return-value]
    return made


def page(folder: Path, name: str, title: str = "A page") -> Path:
    write_page(Page(name, title, "guidance", "Words.", sources=("test",)), folder)
    return folder


def test_pages_of_a_backend_are_in_its_base(tmp_path: Path) -> None:
    base = base_for(registry(page(tmp_path, "guidance/own")), ["fake"])
    assert (base.page("guidance/own").confidential, base.faults) == (False, ())


def test_all_pages_of_a_confidential_backend_are_confidential(tmp_path: Path) -> None:
    base = base_for(registry(page(tmp_path, "guidance/own"), confidential=True), ["fake"])
    assert base.page("guidance/own").taint == {"page:guidance/own", "backend:fake"}
    assert [p.id for p in base.allowed(confidential=False) if p.confidential] == []


def test_a_backend_that_fails_to_tell_its_folders_is_a_fault_of_the_base() -> None:
    base = base_for(registry(None), ["fake"])
    assert len(base) > 30
    assert [fault.got for fault in base.faults] == ["RuntimeError: the disk with the pages is gone"]
    assert len(ready_base(registry(None)).faults) == 1


def test_an_unknown_backend_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        base_for(registry(tmp_path), ["fakee"])


def test_a_folder_of_the_caller_replaces_a_backends_page(tmp_path: Path) -> None:
    backend = page(tmp_path / "backend", "guidance/own", "Theirs")
    mine = page(tmp_path / "mine", "guidance/own", "Mine")
    assert base_for(registry(backend), ["fake"], [mine]).page("guidance/own").title == "Mine"


def test_an_embedders_registry_reads_no_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = page(tmp_path / "mine", "guidance/private")
    monkeypatch.setenv("KEVOLVE_KNOWLEDGE", str(mine))
    assert [p for p in base_for(Registry()) if p.id == "guidance/private"] == []
    assert base_for(with_user_folders(Registry())).page("guidance/private").title == "A page"


def test_the_users_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEVOLVE_KNOWLEDGE", "/a:/b")
    assert user_folders() == (Path("/a"), Path("/b"))
    monkeypatch.setenv("KEVOLVE_KNOWLEDGE", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert user_folders() == (Path("/data/kevolve/knowledge"),)
