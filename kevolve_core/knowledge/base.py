"""`KnowledgeBase`: the pages of several folders and what is found among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from kevolve_core.errors import KevolveError, KnowledgeError, UnknownNameError, suggest
from kevolve_core.knowledge.index import Hit, Index, Query
from kevolve_core.knowledge.page import Page, read_page
from kevolve_core.knowledge.targets import Targets

__all__ = ["CONFIDENTIAL_MARK", "SHIPPED", "Folder", "KnowledgeBase", "marked"]

#: The pages that ship with the core.
SHIPPED = Path(__file__).parent / "pages"

#: A file of this name makes every page below its folder confidential.
CONFIDENTIAL_MARK = ".confidential"


@frozen
class Folder:
    """A tree of pages. ``confidential`` taints them all; ``owner`` says whose they are (a backend's name,
    ``user``). ``derived`` are confidential sources that they derive from (``backend:NAME``)."""

    path: Path
    owner: str = ""
    confidential: bool = False
    derived: tuple[str, ...] = ()


class KnowledgeBase:
    """Pages by id, and retrieval among those that are accepted.

    A later page of the same id replaces an earlier one. ``faults`` has what could not be read: a damaged page
    is left out of answers and reported by ``kevolve kb lint``, it does not end a run.
    """

    def __init__(self, pages: Iterable[Page], faults: Iterable[KevolveError] = ()) -> None:
        self._pages = {page.id: page for page in pages}
        self.faults = tuple(faults)
        self.targets = Targets.of(self._pages.values())
        accepted = sorted((p for p in self if p.status == "accepted"), key=lambda p: p.id)
        self._index = Index(accepted, self.targets)

    @classmethod
    def open(
        cls, folders: Iterable[Path | str | Folder] = (), *, shipped: bool = True, strict: bool = False
    ) -> KnowledgeBase:
        """The base over ``folders``, after the pages that ship with the core.

        Args:
            folders: trees of Markdown pages; ``README.md`` is no page.
            shipped: with the core's own pages.
            strict: raise the first fault instead of keeping it in ``faults``.

        Raises:
            KnowledgeError: a folder does not exist; with ``strict`` also a page that is not usable.
        """
        pages: list[Page] = []
        faults: list[KnowledgeError] = []
        for folder in (*([Folder(SHIPPED, "core")] if shipped else []), *map(_folder, folders)):
            for file in _files(folder.path):
                try:
                    page = read_page(file, folder.path)
                except KnowledgeError as error:
                    if strict:
                        raise
                    faults.append(error)
                    continue
                secret = folder.confidential or folder.derived or marked(file)
                pages.append(page.tainted(*folder.derived) if secret else page)
        return cls(pages, faults)

    def __iter__(self) -> Iterator[Page]:
        return iter(self._pages.values())

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def pages(self) -> tuple[Page, ...]:
        """All pages in the order of their ids, those under review too."""
        return tuple(self._pages[name] for name in sorted(self._pages))

    def page(self, name: str) -> Page:
        """The page of this id. Raises UnknownNameError where there is none."""
        if name not in self._pages:
            raise UnknownNameError(
                "there is no knowledge page of this id",
                got=name,
                mend=suggest(name, self._pages) or "see `kevolve kb list`",
            )
        return self._pages[name]

    def retrieve(self, query: Query, k: int = 5) -> Sequence[Hit]:
        """The ``k`` best pages for a diagnosis, best first. Metadata decides what is left out (other targets,
        other languages, skills that are not accepted); BM25 and agreeing metadata decide the order."""
        return self._index.search(query, k)

    def allowed(self, *, confidential: bool) -> KnowledgeBase:
        """This base, or without ``confidential`` the part of it that any reader may see."""
        if confidential:
            return self
        return KnowledgeBase((p for p in self.pages if not p.confidential), self.faults)


def _folder(given: Path | str | Folder) -> Folder:
    return given if isinstance(given, Folder) else Folder(Path(given))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise KnowledgeError(
            "there is no such knowledge folder", got=str(folder), mend="name a folder of Markdown pages"
        )
    found = (file for file in folder.rglob("*.md") if file.name.lower() != "readme.md" and file.is_file())
    return sorted(
        file for file in found if not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )


def marked(file: Path) -> bool:
    """Whether a page lies below a folder with the mark, also one above the knowledge folder: naming a part of
    a confidential tree makes it no less so."""
    return any((folder / CONFIDENTIAL_MARK).exists() for folder in file.resolve().parents) or any(
        (folder / CONFIDENTIAL_MARK).exists() for folder in file.absolute().parents
    )
