"""`Signature`: what of a specification decides whether experience with another one carries over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge.operators import families, operators_of

__all__ = ["Signature", "signature_of"]

# What each agreement is worth; they sum to one (estimated).
_OPERATORS, _FAMILIES, _DTYPES, _SHAPE = 0.55, 0.2, 0.1, 0.15
_OCTAVES = 4.0  # sizes a factor of 16 apart share hardly a schedule (estimated)


@frozen
class Signature:
    """Operators, types and sizes of a specification.

    Args:
        operators: names by `operators_of`, sorted.
        dtypes: of the inputs of timed cases, sorted.
        elements: of all inputs of the heaviest timed case, 0 where only running the reference would tell.
        inner: length of the last dimension of that case's largest input, 0 as above.
    """

    operators: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    elements: int = 0
    inner: int = 0

    def similarity(self, other: Signature) -> float:
        """From 0 (nothing in common) to 1 (the same); 0 where no operator and no family is shared."""
        operators = _overlap(self.operators, other.operators)
        groups = _overlap(families(self.operators), families(other.operators))
        if not operators and not groups:
            return 0.0
        shape = math.sqrt(_near(self.elements, other.elements) * _near(self.inner, other.inner))
        dtypes = _overlap(self.dtypes, other.dtypes)
        return _OPERATORS * operators + _FAMILIES * groups + _DTYPES * dtypes + _SHAPE * shape

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "operators": list(self.operators),
            "dtypes": list(self.dtypes),
            "elements": self.elements,
            "inner": self.inner,
        }

    @classmethod
    def parsed(cls, value: Mapping[str, Any]) -> Signature:
        """The inverse of `plain`; what is missing or of another type counts as unknown."""
        texts = {
            key: tuple(str(each) for each in given) if isinstance(given := value.get(key), list) else ()
            for key in ("operators", "dtypes")
        }
        sizes = {
            key: int(given) if isinstance(given := value.get(key), (int, float)) else 0
            for key in ("elements", "inner")
        }
        return cls(texts["operators"], texts["dtypes"], sizes["elements"], sizes["inner"])


def signature_of(spec: KernelSpec) -> Signature:
    """The signature of a specification; reads it and runs nothing."""
    cases = sorted(spec.timed_cases, key=lambda case: case.weight, reverse=True)
    shapes = [given.shape for given in cases[0].inputs if given.shape] if cases else []
    largest = max(shapes, key=math.prod, default=())
    return Signature(
        operators=operators_of(spec.reference.source),
        dtypes=tuple(sorted({i.dtype for case in cases for i in case.inputs if i.shape is not None})),
        elements=sum(math.prod(shape) for shape in shapes),
        inner=largest[-1] if largest else 0,
    )


def _overlap(first: Iterable[str], second: Iterable[str]) -> float:
    """Jaccard's index; 0 for two empty sets: nothing known is nothing shared."""
    one, two = set(first), set(second)
    return len(one & two) / len(one | two) if one | two else 0.0


def _near(first: int, second: int) -> float:
    """1 for equal sizes, falling with the octaves between them; a half where one is not known."""
    if first <= 0 or second <= 0:
        return 0.5
    return math.exp(-abs(math.log2(first / second)) / _OCTAVES)
