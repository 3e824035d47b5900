"""A content-addressed folder of build results, shared by processes and runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from kevolve_core.errors import StoreError

__all__ = ["BuildCache"]

MANIFEST_FILE = "entry.json"
_GRACE_S = 3600.0  # an entry used this lately may be about to be loaded by a worker; `estimated`
_PUBLISHES_PER_SWEEP = 256  # the sweep walks the folder; `estimated`


@define
class BuildCache:
    """Folders named by key under ``root``.

    An entry appears whole or not at all: it is built in a private folder beside it and renamed. Builders of
    the same key wait for one another, so that a key is built once. Above ``max_bytes`` the entries not used
    for longest go, but none that was used within the hour.
    """

    root: Path
    max_bytes: int
    _published: int = field(default=0, init=False)

    @classmethod
    def of_user(cls, name: str, max_bytes: int = 4 << 30) -> BuildCache:
        """``$XDG_CACHE_HOME/NAME`` or ``~/.cache/NAME`` (XDG Base Directory Specification)."""
        base = os.environ.get("XDG_CACHE_HOME")
        return cls((Path(base) if base else Path.home() / ".cache") / name, max_bytes)

    def entry(
        self, key: str, build: Callable[[Path], Mapping[str, Any] | None]
    ) -> tuple[Path, Mapping[str, Any], bool]:
        """The entry of ``key``, made by ``build`` where it is not there.

        Args:
            key: a hash of all that the result depends on.
            build: writes the files into the folder it is given, and returns facts to keep with them (JSON
                values).

        Returns:
            The entry's folder, its facts, and whether it was there.

        Raises:
            StoreError: the cache cannot be written. Whatever ``build`` raises, and then nothing is kept.
        """
        found = self.get(key)
        if found is not None:
            return found, self.facts(found), True
        with self.building(key) as work:
            if work is None:
                return self.path(key), self.facts(self.path(key)), True
            made = self.publish(key, work, build(work) or {})
            return made, self.facts(made), False

    def path(self, key: str) -> Path:
        return self.root / "builds" / key[:2] / key

    def get(self, key: str) -> Path | None:
        """The entry's folder, marked as used, or None where it is not there or not whole."""
        entry = self.path(key)
        try:
            sizes = json.loads((entry / MANIFEST_FILE).read_text())["sizes"]
            if any((entry / name).stat().st_size != size for name, size in sizes.items()):
                return None
            os.utime(entry)
        except (OSError, ValueError, KeyError):
            return None
        return entry

    def facts(self, entry: Path) -> dict[str, Any]:
        """What `publish` was told of the entry."""
        facts: dict[str, Any] = json.loads((entry / MANIFEST_FILE).read_text())["facts"]
        return facts

    @contextlib.contextmanager
    def building(self, key: str) -> Iterator[Path | None]:
        """Hold the key's lock; gives None where the entry is there by now, else a private folder to build in.

        On a clean exit the caller has called `publish`; whatever is left of the private folder is removed.

        Raises:
            StoreError: the cache cannot be written.
        """
        with self._lock(key):
            if self.get(key) is not None:
                yield None
                return
            with self._guard():
                scratch = self.root / "scratch"
                scratch.mkdir(parents=True, exist_ok=True)
                work = Path(tempfile.mkdtemp(prefix=f"{key[:12]}-", dir=scratch))
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def keep(self, key: str, files: Mapping[str, str]) -> tuple[Path, bool]:
        """The entry of ``key``, made of ``files`` (name -> text) where it is not there, and whether it was:
        for a compiler that works in memory."""

        def build(folder: Path) -> None:
            for name, text in files.items():
                (folder / name).write_text(text, encoding="utf-8")

        entry, _, cached = self.entry(key, build)
        return entry, cached

    def publish(self, key: str, work: Path, facts: Mapping[str, Any]) -> Path:
        """Make the folder ``work`` the entry of ``key``; ``facts`` are kept with it."""
        entry = self.path(key)
        with self._guard():
            sizes = {f.name: f.stat().st_size for f in work.iterdir() if f.is_file()}
            (work / MANIFEST_FILE).write_text(json.dumps({"sizes": sizes, "facts": dict(facts)}))
            entry.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(entry, ignore_errors=True)  # only a damaged one can be there: we hold the lock
            os.rename(work, entry)
        self._published += 1
        if self._published % _PUBLISHES_PER_SWEEP == 1:
            self.sweep()
        return entry

    def sweep(self) -> int:
        """Drop least recently used entries above the bound; returns the bytes dropped."""
        entries = []
        now = time.time()
        for entry in (self.root / "builds").glob("??/*"):
            try:
                size = sum(f.stat().st_size for f in entry.iterdir())
                entries.append((entry.stat().st_mtime, size, entry))
            except OSError:
                continue  # another process dropped it meanwhile
        for left in (self.root / "scratch").glob("*"):
            with contextlib.suppress(OSError):
                if now - left.stat().st_mtime > _GRACE_S:  # of a builder that was killed
                    shutil.rmtree(left, ignore_errors=True)
        total = sum(size for _, size, _ in entries)
        dropped = 0
        for used, size, entry in sorted(entries):
            if total - dropped <= self.max_bytes or now - used < _GRACE_S:
                break
            shutil.rmtree(entry, ignore_errors=True)
            dropped += size
        return dropped

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        # 256 lock files for ever instead of one a key that somebody would have to clean up.
        with self._guard():
            locks = self.root / "locks"
            locks.mkdir(parents=True, exist_ok=True)
            handle = os.open(locks / key[:2], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                "the compile cache cannot be written",
                got=error.strerror or str(error),
                where=str(self.root),
                mend="free disk space, or name another folder with the option `cache_dir`",
            ) from error
