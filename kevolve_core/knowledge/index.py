"""BM25 over pages (bm25s), with the pages' own metadata as filter and as a bonus."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from kevolve_core.knowledge.page import Page
from kevolve_core.knowledge.targets import Targets
from kevolve_core.knowledge.tokens import tokens

__all__ = ["Hit", "Index", "Query"]

# How often the words of a field count beside the body's; an approximation of BM25F (Robertson and others,
# CIKM 2004). Estimated.
_TITLE, _SYMPTOMS, _NAMES = 3, 3, 2
# What agreement of the metadata is worth beside the best page's words, which are worth 1 (estimated).
_OPERATOR, _DIAGNOSIS, _TARGET, _LANGUAGE = 0.25, 0.15, 0.1, 0.1

#: Words of a diagnosis that a page about it is likely to have; a bottleneck is one of `Profile`, a verdict
#: one of `VerdictKind`.
_WORDS: Mapping[str, str] = {
    "memory": "memory bandwidth bytes traffic",
    "compute": "compute throughput arithmetic",
    "latency": "latency dependency launch overhead",
    "compile_error": "compile error compiler refuses",
    "wrong_result": "wrong result numerics incorrect",
    "crash": "crash illegal memory access fault",
    "timeout": "timeout hang deadlock",
    "out_of_memory": "out of memory allocation",
    "rule_violation": "rule violation",
    "unsupported": "unsupported",
}


@frozen
class Query:
    """A question to the knowledge base, mostly a diagnosis.

    Args:
        text: a compiler's message, a profiler's hint, a person's words.
        language: of the candidate; pages of other languages are left out.
        target: names of the target (backend, architecture, product), separated by blanks; pages of other
            targets are left out.
        operators: what is computed.
        bottleneck: as in `kevolve_core.model.Profile`.
        verdict: as in `kevolve_core.model.VerdictKind`.
    """

    text: str = ""
    language: str = ""
    target: str = ""
    operators: tuple[str, ...] = ()
    bottleneck: str = ""
    verdict: str = ""


@frozen
class Hit:
    """A page found. ``score`` orders hits of one query only; ``why`` names the metadata that agreed."""

    page: Page
    score: float
    why: tuple[str, ...] = ()


class Index:
    """An immutable index over ``pages``; thread-safe. It is built at the first question (bm25s imports scipy:
    most of a second)."""

    def __init__(self, pages: Sequence[Page], targets: Targets) -> None:
        self._pages = tuple(pages)
        self._targets = targets
        self._lock = threading.Lock()
        self._ranker: Any = None

    def search(self, query: Query, k: int) -> tuple[Hit, ...]:
        """Up to ``k`` pages, best first; equal scores in the order of ids."""
        allowed = self._allowed(query)
        if not allowed or k < 1:
            return ()
        words = self._scores(_terms(query))
        best = max((words[n] for n in allowed), default=0.0) or 1.0
        hits = [self._hit(self._pages[n], words[n] / best, query) for n in allowed]
        hits = [hit for hit in hits if hit.score > 0]
        return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.page.id))[:k])

    def _allowed(self, query: Query) -> list[int]:
        within = self._targets.closure(query.target)
        language = query.language.lower()
        return [
            n
            for n, page in enumerate(self._pages)
            if (not page.targets or not within or not within.isdisjoint(page.targets))
            and (not page.languages or not language or language in page.languages)
        ]

    def _hit(self, page: Page, words: float, query: Query) -> Hit:
        score, why = words, []
        if common := [name for name in query.operators if name.lower() in page.operators]:
            score += _OPERATOR
            why += common
        for value, having in ((query.bottleneck, page.bottlenecks), (query.verdict, page.verdicts)):
            if value and value in having:
                score += _DIAGNOSIS
                why.append(value)
        if words or why:  # that a page is of the right target or language alone says nothing
            score += _TARGET * bool(page.targets and query.target)
            score += _LANGUAGE * bool(page.languages and query.language)
        return Hit(page, round(float(score), 6), tuple(why))

    def _scores(self, terms: list[str]) -> list[float]:
        known = [term for term in terms if term in self._vocabulary()]
        if not known:
            return [0.0] * len(self._pages)
        return [float(score) for score in self._ranker.get_scores(known)]

    def _vocabulary(self) -> Mapping[str, int]:
        with self._lock:
            if self._ranker is None:
                import bm25s

                # It sets its own logger to DEBUG on import, over what the program chose.
                logging.getLogger("bm25s").setLevel(logging.WARNING)
                self._ranker = bm25s.BM25()
                self._ranker.index([_page_terms(page) for page in self._pages], show_progress=False)
            found: Mapping[str, int] = self._ranker.vocab_dict
            return found


def _page_terms(page: Page) -> list[str]:
    names = " ".join((*page.operators, *page.targets, *page.aliases, *page.languages, *page.bottlenecks))
    fields = ((page.title, _TITLE), (" ".join(page.symptoms), _SYMPTOMS), (names, _NAMES), (page.body, 1))
    return [term for text, times in fields for term in tokens(text) * times] or ["-"]


def _terms(query: Query) -> list[str]:
    diagnosis = [_WORDS.get(query.bottleneck, ""), _WORDS.get(query.verdict, "")]
    return tokens(" ".join((query.text, *query.operators, *diagnosis)))
