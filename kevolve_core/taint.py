"""What a candidate derives from that not everybody may see, as its notes say it.

A generator that knows what went into a candidate notes ``taint`` (sources such as ``page:ID`` and
``backend:NAME``, an empty list for none). For one that does not, the search notes what its parents derive
from, under another name: its backend's own taint comes on top of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve

from kevolve_core.model import Candidate

__all__ = ["INHERITED", "NOTED", "inheriting", "sources"]

NOTED, INHERITED = "taint", "taint_of_parents"


def sources(candidate: Candidate) -> frozenset[str]:
    """Confidential sources that the notes of ``candidate`` name."""
    notes = candidate.origin.notes
    return frozenset((*_texts(notes.get(NOTED)), *_texts(notes.get(INHERITED))))


def inheriting(candidate: Candidate, shown: Sequence[Candidate]) -> Candidate:
    """``candidate`` with what its parents derive from in its notes, where its generator noted nothing: a
    tuner's point of a tainted kernel is that kernel with other numbers.

    Args:
        candidate: as it was proposed.
        shown: the parents that its generator was given. All of them count where it names none of them.
    """
    if NOTED in candidate.origin.notes:
        return candidate
    named = [parent for parent in shown if parent.id in candidate.parents] or shown
    taint = frozenset[str]().union(*(sources(parent) for parent in named))
    if not taint:
        return candidate
    notes = {**candidate.origin.notes, INHERITED: sorted(taint)}
    return candidate.with_origin(evolve(candidate.origin, notes=notes))


def _texts(value: object) -> Iterable[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else []
