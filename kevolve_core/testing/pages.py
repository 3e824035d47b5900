"""The knowledge pages that a backend ships."""

from __future__ import annotations

from pathlib import Path

import yaml

from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_HEAD = "begin it with a line `---`, then `title: …` and `source: …`, then a line `---`"


def pages(subject: Subject) -> None:
    """There are knowledge pages, with front matter that parses, a title, and where their facts come from."""
    folders = [Path(folder) for folder in subject.backend.knowledge()]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise fail(
            "knowledge() to give folders that exist",
            got=missing[0],
            mend="find them from the package's own path, and put them into the wheel",
        )
    found = sorted(page for folder in folders for page in folder.rglob("*.md"))
    if not found:
        raise fail(
            "a knowledge page (*.md)",
            got=f"none in {', '.join(map(str, folders)) or 'no folder'}",
            mend="write one: what is fast and what is slow on this target; generators read it",
        )
    for page in found:
        head, body = _split(page)
        if not str(head.get("title") or "").strip():
            raise fail("a title in the front matter", got=sorted(head), where=str(page), mend="title: …")
        if not (head.get("source") or head.get("sources")):
            raise fail(
                "where the page's facts come from",
                got=sorted(head),
                where=str(page),
                mend="source: a document of the vendor's, a paper, or 'measured on …'",
            )
        if not body.strip():
            raise fail("text below the front matter", got="nothing", where=str(page), mend="write the page")


def _split(page: Path) -> tuple[dict[str, object], str]:
    try:
        lines = page.read_text(encoding="utf-8").removeprefix("\ufeff").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise fail(
            "a page that is UTF-8 text", got=error, where=str(page), mend="save it as UTF-8"
        ) from error
    ends = [n for n, line in enumerate(lines) if line.strip() == "---"]
    if len(ends) < 2 or ends[0] != 0:
        raise fail("front matter", got=lines[0] if lines else "an empty file", where=str(page), mend=_HEAD)
    try:
        head = yaml.safe_load("\n".join(lines[1 : ends[1]]))
    except yaml.YAMLError as error:
        raise fail("front matter that is YAML", got=error, where=str(page), mend=_HEAD) from error
    if not isinstance(head, dict):
        raise fail("keys in the front matter", got=type(head).__name__, where=str(page), mend=_HEAD)
    return head, "\n".join(lines[ends[1] + 1 :])


CHECKS = (Check("knowledge.pages", pages, (0,)),)
