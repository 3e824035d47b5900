"""What a knowledge tree must keep to, beyond what reading a page demands."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

from kevolve_core.errors import suggest
from kevolve_core.knowledge.base import KnowledgeBase
from kevolve_core.knowledge.operators import FAMILIES, canonical
from kevolve_core.knowledge.page import Page
from kevolve_core.knowledge.targets import plain

__all__ = ["Complaint", "lint"]

_SHORT = 200  # characters; less is no page but a remark (estimated)
_LONG = 6000  # characters: a prompt holds several pages (estimated)
_LOCAL = re.compile(r"(?<![\w./])(?:/(?:home|root|users|tmp|mnt|scratch)/|[a-z]:\\)\S*", re.IGNORECASE)
_OPERATORS = frozenset(FAMILIES).union(*FAMILIES.values(), {"map_id", "jagged"})


@frozen
class Complaint:
    """One finding: which page, what, and what to do. ``where`` is the page's file."""

    page: str
    what: str
    mend: str = ""
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where or self.page}: {self.what}" + (f"; {self.mend}" if self.mend else "")


def lint(base: KnowledgeBase, pages: Iterable[Page] | None = None) -> tuple[Complaint, ...]:
    """Complaints about ``pages`` (default: all of ``base``) and about what could not be read."""
    found = [Complaint(fault.where or "?", fault.what, fault.mend or "") for fault in base.faults]
    known = {plain(target) for target in base.targets.wider} | set(base.targets.canonical)
    for page in base.pages if pages is None else pages:
        where = "" if page.path is None else str(page.path)
        found += [Complaint(page.id, what, mend, where) for what, mend in _about(page, known)]
    return (*found, *_clashes(base.pages))


def _about(page: Page, targets: set[str]) -> Iterable[tuple[str, str]]:
    if not page.sources:
        yield "it does not say where its claims come from", "write `sources: […]`"
    if len(page.body) < _SHORT:
        yield f"its text has {len(page.body)} characters", f"write at least {_SHORT}"
    if len(page.body) > _LONG:
        yield f"its text has {len(page.body)} characters", f"split it: at most {_LONG} go well into a prompt"
    for text in (page.body, *page.sources):
        if local := _LOCAL.search(text):
            yield f"it names a path of one machine: {local[0]}", "name the document instead"
    for name in page.operators:
        if name not in _OPERATORS and canonical(name) not in _OPERATORS:
            yield f"its operator '{name}' is not known", suggest(name, _OPERATORS)
    declared = bool(page.aliases or page.within)
    if declared and not page.targets:
        yield "it has aliases or wider targets and no target", "write `targets: [name]`"
    for name in page.within:
        if plain(name) not in targets:
            yield f"its wider target '{name}' is not known", suggest(name, targets)


def _clashes(pages: Iterable[Page]) -> Iterable[Complaint]:
    """One alias for two targets: a request that names it could not be resolved."""
    owner: dict[str, tuple[str, str]] = {}
    for page in pages:
        for name in (*page.targets[:1], *page.aliases) if page.aliases or page.within else ():
            own = page.targets[0] if page.targets else ""
            before, other = owner.setdefault(plain(name), (own, page.id))
            if before != own:
                yield Complaint(page.id, f"'{name}' means target '{own}' here and '{before}' in {other}")
