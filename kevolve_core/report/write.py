"""Writing a report's files so that a reader never meets a half-written one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from attrs import frozen

from kevolve_core.errors import KevolveError, StoreError
from kevolve_core.model import Candidate
from kevolve_core.report.document import document
from kevolve_core.report.markdown import markdown
from kevolve_core.report.record import RunRecord

__all__ = ["ReportPaths", "write_report"]


@frozen
class ReportPaths:
    """Where a report's files are.

    ``kernel`` is one file that runs without Kevolve, where the kernel can be one; ``candidate`` is the folder
    with the kernel's own files, as ``kevolve evaluate`` and ``--seed-kernel`` take them.
    """

    folder: Path
    json: Path
    markdown: Path
    picture: Path
    kernel: Path
    candidate: Path


def write_report(record: RunRecord, folder: Path, kernel_text: str | None) -> ReportPaths:
    """Write ``report.json``, ``report.md``, ``progress.png``, ``kernel.py`` and ``kernel/`` into ``folder``.

    Args:
        kernel_text: the kernel as one stand-alone file; None where there is none, and ``kernel`` then is the
            entry in its folder.

    Raises:
        StoreError: the folder cannot be written (full disk, no permission).
    """
    from kevolve_core.report.picture import draw_progress  # matplotlib takes half a second to import

    paths = ReportPaths(
        folder=folder,
        json=folder / "report.json",
        markdown=folder / "report.md",
        picture=folder / "progress.png",
        kernel=folder / ("kernel.py" if kernel_text is not None else f"kernel/{record.kernel.entry}"),
        candidate=folder / "kernel",
    )
    text = json.dumps(document(record), indent=2, allow_nan=False) + "\n"
    page = markdown(record, kernel=paths.kernel.relative_to(folder).as_posix(), picture=paths.picture.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_candidate(record.kernel, paths.candidate, _files_of_last_report(paths.json))
        if kernel_text is not None:
            _replace(paths.kernel, lambda at: _write_text(at, kernel_text))
        _replace(paths.picture, lambda at: draw_progress(record, at))
        _replace(paths.markdown, lambda at: _write_text(at, page))
        _replace(paths.json, lambda at: _write_text(at, text))
    except OSError as error:
        raise StoreError(
            "the report cannot be written",
            got=error.strerror or error,
            where=str(error.filename or folder),
            mend="free some space or choose another folder; the run is kept and `kevolve resume` reports it",
        ) from error
    return paths


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside ``path``, then rename: the old file stays whole until the new one is."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _files_of_last_report(report: Path) -> list[str]:
    """The kernel's files that an earlier report of this folder wrote; nothing else there is ours."""
    try:
        return list(json.loads(report.read_text(encoding="utf-8"))["kernel"]["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none yet, or not one of ours
        return []


def _write_candidate(candidate: Candidate, folder: Path, stale: list[str]) -> None:
    for name in set(stale) - set(candidate.files):
        _inside(folder, name).unlink(missing_ok=True)
    for name, text in candidate.files.items():
        at = _inside(folder, name)
        at.parent.mkdir(parents=True, exist_ok=True)
        _write_text(at, text)


def _inside(folder: Path, name: str) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise KevolveError(
            "a candidate's file must lie inside its folder", got=name, mend="use a relative path without '..'"
        )
    return folder / name
