"""Small third-party plugins, written to a folder and installed by fabricated metadata."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

from kevolve_core.registry import Registry, discover

#: A sound plugin: one backend called NAME, one device, and a mark in MADE whenever a backend is made.
SOUND = """
from kevolve_core.interfaces import Manifest
from kevolve_core.model import Device, Target
from kevolve_core.registry import hookimpl

NAME, API, SCHEMA, DEVICES = {name!r}, (1, 0), {{}}, 1
MADE = []

class FakeBackend:
    def __init__(self, options):
        self.options = dict(options)
        MADE.append(self)
    manifest = property(lambda self: manifest())
    def probe(self):
        return [device(i) for i in range(DEVICES)]

def device(i, **more):
    capabilities = frozenset({{"compile", "run", "teleport"}})
    return Device(f"{{NAME}}:{{i}}", NAME, "Fake", Target(NAME, "v0"), capabilities, **more)

def manifest():
    return Manifest(NAME, API, ("cpp",), frozenset({{"compile", "run", "time"}}), options_schema=SCHEMA)

@hookimpl
def kevolve_register(registry):
    registry.add_backend(manifest(), FakeBackend)
"""


class Site:
    """A folder on ``sys.path`` in which plugins are installed, and the home of the probes' cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {"XDG_CACHE_HOME": str(folder / "cache"), "KEVOLVE_PROBE_SECONDS": "60"}
        self.lib = folder / "lib"
        self.lib.mkdir()

    def module(self, name: str, *more: str, before: str = "") -> str:
        """Write the module ``fake_NAME``: a sound plugin with code ``before`` and after it."""
        body = SOUND.format(name=name)
        text = "\n".join([textwrap.dedent(before), body, *(textwrap.dedent(each) for each in more)])
        (self.lib / f"fake_{name}.py").write_text(text)
        return f"fake_{name}"

    def plugin(
        self,
        name: str,
        *more: str,
        before: str = "",
        version: str = "1.0",
        requires: str = "",
        dist: str = "",
    ) -> None:
        """Install ``fake_NAME`` as the entry point NAME of the distribution ``kevolve-NAME``."""
        self.metadata(
            dist or f"kevolve-{name}",
            version,
            f"{name} = {self.module(name, *more, before=before)}",
            requires,
        )

    def metadata(self, distribution: str, version: str, points: str, requires: str = "") -> None:
        info = self.lib / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = f"Requires-Dist: {requires}\n" if requires else ""
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}"
        )
        (info / "entry_points.txt").write_text(f"[kevolve.plugins.v1]\n{points}\n")

    def config(self, text: str) -> Path:
        file = self.folder / "plugins.toml"
        file.write_text(textwrap.dedent(text))
        return file

    def discover(self, text: str | None = None, **environ: str) -> Registry:
        """The registry of this site's plugins (a real backend may be installed beside them)."""
        config = self.config(text) if text is not None else None
        return discover(config, environ={**self.environ, **environ})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    workdir = tmp_path / "work"
    workdir.mkdir()
    monkeypatch.chdir(workdir)
    # Only this site's metadata is seen: what else is installed is no part of these tests.
    monkeypatch.setattr(
        "kevolve_core.registry.discovery.distributions", lambda: distributions(path=[str(site.lib)])
    )
    monkeypatch.syspath_prepend(str(site.lib))
    before = set(sys.modules)
    yield site
    for name in set(sys.modules) - before:
        if name.startswith(("fake_", "_kevolve_plugin_", "kevolve_fake")):
            del sys.modules[name]
