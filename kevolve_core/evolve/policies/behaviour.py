"""Behaviour descriptors: in what way a kernel works, apart from how fast it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from kevolve_core.model import Candidate, Evaluation, content_hash

__all__ = ["Cell", "Descriptor", "behaviour"]

#: A cell of the archive: any short tuple of hashable JSON scalars.
Cell = tuple[Any, ...]
Descriptor = Callable[[Candidate, Evaluation], Cell]

_STRUCTURE_KEYS = ("structure", "groups", "steps", "fusion", "algorithm", "variant")
_STRUCTURE_BUCKETS = 16  # keeps one space with many structures from flooding the archive (estimated)


def behaviour(candidate: Candidate, evaluation: Evaluation) -> Cell:
    """Cells by algorithm, memory traffic and occupancy (MAP-Elites, Mouret and Clune 2015,
    https://arxiv.org/abs/1504.04909).

    The algorithm is the language, the library calls, the structure the genome names and, where there is no
    genome, the size of the source in doublings; traffic is the profile's bottleneck and roofline bytes in
    doublings; occupancy comes from its counters in quarters. What is unknown takes one value.
    """
    profile = evaluation.profile
    calls = tuple(sorted(set(candidate.libraries) | set(evaluation.library_calls)))
    traffic = profile.roofline.bytes if profile is not None and profile.roofline is not None else 0.0
    occupancy = profile.counters.get("occupancy") if profile is not None else None
    return (
        candidate.language,
        calls,
        _structure(candidate),
        profile.bottleneck if profile is not None else "unknown",
        _doublings(traffic),
        None if occupancy is None else min(3, int(occupancy * 4)),
    )


def _structure(candidate: Candidate) -> int:
    genome = candidate.genome
    if not genome:
        return _doublings(sum(len(text) for text in candidate.files.values()))
    shape = {key: _outline(genome[key]) for key in _STRUCTURE_KEYS if key in genome}
    return int(content_hash(shape or sorted(genome))[:8], 16) % _STRUCTURE_BUCKETS


def _outline(value: Any) -> Any:
    """Names and words of a genome's part; numbers are tuning, not structure."""
    if isinstance(value, Mapping):
        return {str(key): _outline(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_outline(inner) for inner in value]
    return value if isinstance(value, (str, bool)) else None


def _doublings(value: float) -> int:
    return int(math.log2(value)) if value >= 1 and math.isfinite(value) else 0
