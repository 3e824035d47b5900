"""Content-addressed files (sources, samples, profiles) over fsspec, so that an object store can hold them."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any, Protocol

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from kevolve_core.errors import StoreError
from kevolve_core.store.faults import damaged, guarded

__all__ = ["BlobStore", "FsspecBlobs"]


class BlobStore(Protocol):
    """Where large content lies. Writing the same content twice stores it once."""

    def put(self, data: bytes) -> str:
        """Store ``data``; returns its SHA-256 in hex. Visible whole or not at all, also to a crash."""
        ...

    def get(self, digest: str) -> bytes:
        """The content named ``digest``. Raises StoreError where it is missing or altered."""
        ...


class FsspecBlobs:
    """Blobs under an fsspec URL (``/runs/a/blobs``, ``s3://bucket/prefix``)."""

    def __init__(self, url: str, **options: Any) -> None:
        self._fs, self._root = url_to_fs(url, **options)
        self._local = isinstance(self._fs, LocalFileSystem)

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        with guarded(path):
            if self._fs.exists(path):
                return digest
            if self._local:
                self._put_local(path, data)
            else:
                self._fs.pipe_file(path, data)  # object stores show an object only once it is complete
        return digest

    def _put_local(self, path: str, data: bytes) -> None:
        temporary = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
        try:
            try:
                self._fs.pipe_file(temporary, data)
            except FileNotFoundError:
                self._fs.makedirs(os.path.dirname(path), exist_ok=True)
                self._fs.pipe_file(temporary, data)
            os.replace(temporary, path)
        except OSError:
            if self._fs.exists(temporary):
                os.unlink(temporary)
            raise

    def get(self, digest: str) -> bytes:
        path = self._path(digest)
        with guarded(path):
            try:
                data: bytes = self._fs.cat_file(path)
            except FileNotFoundError as error:
                raise damaged("a stored file is missing from the run", path) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise damaged("a stored file does not have the content that its name promises", path)
        return data

    def _path(self, digest: str) -> str:
        if len(digest) != 64 or not digest.isalnum():
            raise StoreError("not the name of a stored file", got=digest, where=self._root)
        return f"{self._root}/{digest[:2]}/{digest[2:]}"
