"""What the operating system and SQLite say when storage fails, as `StoreError` that says what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kevolve_core.errors import StoreError

__all__ = ["FREE_SPACE", "damaged", "guarded"]

FREE_SPACE = "free space (or raise the quota), then go on with `kevolve resume`; everything stored is kept"
_WRITABLE = "make the run directory writable, or copy it to a place that is"
_DAMAGED = "restore the run directory from a copy, or start a new run; other runs are not affected"

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED_ERRNOS = {errno.EROFS, errno.EACCES, errno.EPERM}

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: ("the disk is full", FREE_SPACE),
    sqlite3.SQLITE_IOERR: (
        "the run's database could not be written or read (disk full, file size limit, or failing disk)",
        FREE_SPACE,
    ),
    sqlite3.SQLITE_READONLY: ("the run's database is read-only", _WRITABLE),
    sqlite3.SQLITE_PERM: ("the run's database is not accessible", _WRITABLE),
    sqlite3.SQLITE_CANTOPEN: ("the run's database cannot be opened", _WRITABLE),
    sqlite3.SQLITE_CORRUPT: ("the run's database is damaged", _DAMAGED),
    sqlite3.SQLITE_NOTADB: ("the run's database is damaged", _DAMAGED),
    sqlite3.SQLITE_BUSY: ("the run's database is locked by another program", "end that program, then resume"),
    sqlite3.SQLITE_LOCKED: (
        "the run's database is locked by another program",
        "end that program, then resume",
    ),
    sqlite3.SQLITE_CONSTRAINT: ("the run's database already holds this row", _DAMAGED),
}


def damaged(what: str, where: str, got: object = None) -> StoreError:
    """The error for content that is there but not readable as what it should be."""
    return StoreError(what, got=got, where=where, mend=_DAMAGED)


@contextmanager
def guarded(where: str) -> Iterator[None]:
    """Turn storage faults inside into `StoreError`, with the cause chained."""
    try:
        yield
    except DBAPIError as error:
        raise _of_sqlite(error.orig, where) from error
    except SQLAlchemyError as error:
        raise damaged("the run's database gave an unexpected answer", where, error) from error
    except sqlite3.Error as error:
        raise _of_sqlite(error, where) from error
    except OSError as error:
        raise _of_os(error, where) from error


def _of_sqlite(error: BaseException | None, where: str) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    what, mend = _BY_SQLITE_CODE.get(code, ("the run's database refused an operation", _DAMAGED))
    return StoreError(what, got=error, where=where, mend=mend)


def _of_os(error: OSError, where: str) -> StoreError:
    if error.errno in _FULL_ERRNOS:
        return StoreError("the disk is full", got=error.strerror, where=where, mend=FREE_SPACE)
    if error.errno in _DENIED_ERRNOS:
        return StoreError("the run directory is read-only", got=error.strerror, where=where, mend=_WRITABLE)
    return StoreError(
        "the run directory cannot be used", got=error, where=where, mend="see the operating system's message"
    )
