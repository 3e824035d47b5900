"""`Memory`: accepted skills as starting points of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.base import KnowledgeBase
from kevolve_core.knowledge.experience.signature import Signature, signature_of
from kevolve_core.knowledge.page import Page
from kevolve_core.model import Device, freeze

__all__ = ["Memory", "Warm"]

# How far experience with other hardware is trusted (estimated).
_SAME_ARCH, _SAME_BACKEND, _ELSEWHERE = 1.0, 0.6, 0.25
_LEAST = 0.4  # below this similarity a foreign genome is no better than a draft (estimated)


@frozen
class Warm:
    """A genome worth starting from.

    Args:
        genome: as its generator wrote it.
        score: the speed-up it had where it was learned.
        language: of the candidate.
        similarity: of the specification it comes from, 0 to 1.
        skill: the page it is from.
        source: where it was learned, for a person.
        confidential: so is whatever derives from it.
    """

    genome: Mapping[str, Any] = field(converter=freeze, hash=False)
    score: float
    language: str
    similarity: float
    skill: str
    source: str
    confidential: bool = False


class Memory:
    """The accepted skills of a knowledge base that carry a genome. Reads only the pages it is given."""

    def __init__(self, pages: Iterable[Page]) -> None:
        self._skills = tuple(
            page
            for page in sorted(pages, key=lambda page: page.id)
            if page.status == "accepted" and isinstance(page.data.get("genome"), Mapping)
        )

    @classmethod
    def of(cls, base: KnowledgeBase) -> Memory:
        """The memory that a base holds."""
        return cls(base.pages)

    def __len__(self) -> int:
        return len(self._skills)

    def warm(self, spec: KernelSpec, device: Device, language: str = "", k: int = 3) -> tuple[Warm, ...]:
        """Up to ``k`` genomes of the most similar specifications, the most promising first; equal ones in the
        order of their pages. ``()`` where nothing is similar enough.

        Args:
            spec: what is to be computed.
            device: for what; experience with the same architecture counts most.
            language: keeps to genomes of this language, where given.
            k: how many.
        """
        wanted = signature_of(spec)
        found: list[tuple[float, Warm]] = []
        for page in self._skills:
            warm = _warm(page, wanted)
            if warm.similarity < _LEAST or (language and warm.language != language):
                continue
            trust = _trust(page.data, device)
            found.append((warm.similarity * trust * (1 + math.log(max(1.0, warm.score))), warm))
        found.sort(key=lambda item: (-item[0], item[1].skill))
        return tuple(warm for _, warm in found[:k])


def _warm(page: Page, wanted: Signature) -> Warm:
    data = page.data
    known = data.get("signature")
    signature = Signature.parsed(known if isinstance(known, Mapping) else {})
    score = data.get("score")
    language = str(data.get("language", ""))
    return Warm(
        genome={"language": language, **data["genome"]},  # a page is a person's text: generators need one
        score=float(score) if isinstance(score, (int, float)) else 1.0,
        language=language,
        similarity=round(wanted.similarity(signature), 6),
        skill=page.id,
        source=page.title,
        confidential=page.confidential,
    )


def _trust(data: Mapping[str, Any], device: Device) -> float:
    if data.get("backend") != device.target.backend:
        return _ELSEWHERE
    return _SAME_ARCH if data.get("arch") == device.target.arch else _SAME_BACKEND
