"""Opening the database of a run: SQLite in WAL mode, with the schema version checked."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, insert, inspect, select
from sqlalchemy.pool import StaticPool

from kevolve_core.errors import StoreError
from kevolve_core.store import schema
from kevolve_core.store.faults import damaged, guarded

__all__ = ["Database"]

_BUSY_SECONDS = 10.0  # a reader's checkpoint can hold the file for moments (estimated)


class Database:
    """One connection with transactions, usable from any thread (one at a time).

    A commit is in the operating system's page cache when it returns: ``kill -9`` loses nothing. With
    ``synchronous=NORMAL`` a power failure may take the last commits, never the consistency
    (https://www.sqlite.org/pragma.html#pragma_synchronous).
    """

    def __init__(self, path: Path, *, create: bool = False, readonly: bool = False) -> None:
        self.where = str(path)
        self._mutex = threading.RLock()
        with guarded(self.where):
            engine = create_engine(
                "sqlite://", creator=lambda: _connect(path, create, readonly), poolclass=StaticPool
            )
            self._engine = engine
            self._connection: Connection = engine.connect()
        try:
            if create:
                self._create()
            else:
                self._check()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: committed at the end, rolled back on any exception; faults become StoreError."""
        with self._mutex, guarded(self.where), self._connection.begin():
            yield self._connection

    def fold(self) -> None:
        """Fold the write-ahead log into the database file now, and see that it could be done."""
        with self._mutex, guarded(self.where):
            self._connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
            self._connection.rollback()

    def close(self) -> None:
        """Close; a clean close folds the write-ahead log into the database file."""
        with self._mutex, guarded(self.where):
            self._connection.close()
            self._engine.dispose()

    def _create(self) -> None:
        with self.transaction() as connection:
            schema.metadata.create_all(connection)
            connection.execute(insert(schema.schema_version).values(version=schema.SCHEMA_VERSION))

    def _check(self) -> None:
        with self.transaction() as connection:
            report = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if report != "ok":
                raise damaged("the run's database is damaged", self.where, report)
            if not inspect(connection).has_table("schema_version"):
                raise damaged("this file is not a run's database", self.where)
            version = connection.execute(select(schema.schema_version.c.version)).scalar()
        if version != schema.SCHEMA_VERSION:
            newer = version is not None and version > schema.SCHEMA_VERSION
            raise StoreError(
                "this run was stored with another schema version",
                got=f"version {version}, this Kevolve reads {schema.SCHEMA_VERSION}",
                where=self.where,
                mend="upgrade kevolve" if newer else "open it with the Kevolve version that made it",
            )


def _connect(path: Path, create: bool, readonly: bool) -> sqlite3.Connection:
    if readonly:
        return _connect_readonly(path)
    connection = _open(path, "rwc" if create else "rw")
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_readonly(path: Path) -> sqlite3.Connection:
    """Read without a trace. A write-ahead database needs its index file beside it even for reading, so in a
    directory that cannot be written it is opened as immutable: exact as long as no log is left unmerged."""
    connection = _open(path, "ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        log = path.with_name(path.name + "-wal")
        if not path.exists() or (log.exists() and log.stat().st_size):
            raise
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        return _open(path, "ro&immutable=1")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, check_same_thread=False
    )
