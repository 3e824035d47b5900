"""Names of targets: which pages hold for ``sm_90a`` or for the backend ``x``. What is known comes from the
hardware pages alone (``aliases`` and ``within``), so a new target is a new page and no code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from attrs import frozen

from kevolve_core.knowledge.page import Page

__all__ = ["Targets", "plain"]


def plain(name: str) -> str:
    """A name as it is compared: lower case, without the marks that people put in or leave out."""
    return re.sub(r"[\s_.\-/]+", "", name.lower())


@frozen
class Targets:
    """The vocabulary of target names.

    Args:
        canonical: plain name or alias -> the target's own name.
        wider: target -> the targets whose pages hold for it too.
    """

    canonical: Mapping[str, str]
    wider: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, pages: Iterable[Page]) -> Targets:
        """Those that ``pages`` declare: the first target of a hardware page with its aliases."""
        canonical: dict[str, str] = {}
        wider: dict[str, tuple[str, ...]] = {}
        for page in pages:
            for target in page.targets:
                canonical.setdefault(plain(target), target)
            if page.targets and (page.aliases or page.within):
                own = page.targets[0]
                canonical |= {plain(alias): own for alias in page.aliases}
                wider[own] = tuple(dict.fromkeys((*wider.get(own, ()), *page.within)))
        return cls(canonical, wider)

    def resolve(self, name: str) -> str:
        """The target's own name, or ``name`` in lower case where it is not known."""
        return self.canonical.get(plain(name), name.strip().lower())

    def closure(self, names: str) -> frozenset[str]:
        """All targets whose pages hold for ``names`` (several are separated by blanks or commas)."""
        todo = [self.resolve(name) for name in re.split(r"[\s,]+", names) if name]
        if names.strip() and plain(names) in self.canonical:
            todo.append(self.canonical[plain(names)])
        found: set[str] = set()
        while todo:
            target = todo.pop()
            if target not in found:
                found.add(target)
                todo += [self.resolve(each) for each in self.wider.get(target, ())]
        return frozenset(found)
