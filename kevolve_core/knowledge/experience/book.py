"""`SkillBook`: the skills of one folder, to be reviewed: accepted, turned down, taken out again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from attrs import evolve, frozen

from kevolve_core.errors import KnowledgeError, UnknownNameError, suggest
from kevolve_core.knowledge.base import KnowledgeBase
from kevolve_core.knowledge.page import Page, dump_page

__all__ = ["Entered", "SkillBook", "write_page"]


@frozen
class Entered:
    """What became of a skill that was offered: ``proposed``, ``accepted``, ``known`` (it is there already) or
    ``rejected`` (it was turned down before)."""

    page: Page
    outcome: str


class SkillBook:
    """The pages under ``skills/`` of a knowledge folder. Every change is one file, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pages(self) -> tuple[Page, ...]:
        """All skills, by id. Raises KnowledgeError for one that cannot be read."""
        if not self.folder.is_dir():
            return ()
        base = KnowledgeBase.open([self.folder], shipped=False)
        return tuple(page for page in base.pages if page.kind == "skills")

    def enter(self, offered: Iterable[Page], *, accept: bool = False) -> tuple[Entered, ...]:
        """Put skills under review (or, with ``accept``, into use). What is there already, also turned down,
        stays as it is."""
        known = {page.id: page for page in self.pages()}
        done = []
        for page in offered:
            if page.id in known:
                before = known[page.id].status
                done.append(Entered(known[page.id], "rejected" if before == "rejected" else "known"))
                continue
            page = evolve(page, status="accepted" if accept else "proposed")
            write_page(page, self.folder)
            done.append(Entered(page, page.status))
        return tuple(done)

    def set_status(self, name: str, status: str) -> Page:
        """Accept, turn down or propose again. Raises UnknownNameError for an id that is not there."""
        page = evolve(self.page(name), status=status)
        write_page(page, self.folder, page.path)
        return page

    def remove(self, name: str) -> Page:
        """Take a skill out; a run may teach it again. Raises as `set_status`."""
        page = self.page(name)
        if page.path is not None:
            try:
                page.path.unlink()
            except OSError as error:
                raise _unwritable(page.path, error) from error
        return page

    def page(self, name: str) -> Page:
        """The skill whose id is ``name``, or ends with it. Raises UnknownNameError where there is not exactly
        one."""
        pages = self.pages()
        found = [p for p in pages if p.id == name] or [p for p in pages if p.id.endswith(name) and name]
        if len(found) == 1:
            return found[0]
        ids = [page.id for page in found or pages]
        raise UnknownNameError(
            "several skills have ids that end so" if found else "there is no such skill",
            got=name,
            where=str(self.folder),
            mend=", ".join(ids) if found else suggest(name, ids) or "see `kevolve kb skills list`",
        )


def write_page(page: Page, folder: Path, path: Path | None = None) -> Path:
    """Write a page into a knowledge folder, under its id. Raises KnowledgeError where that cannot be done."""
    file = path or folder / f"{page.id}.md"
    draft = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(dump_page(page), encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _unwritable(file, error) from error
    return file


def _unwritable(file: Path, error: OSError) -> KnowledgeError:
    return KnowledgeError(
        "a knowledge page cannot be written",
        got=error.strerror or str(error),
        where=str(file),
        mend="make the folder writable, or name another one first in KEVOLVE_KNOWLEDGE",
    )
