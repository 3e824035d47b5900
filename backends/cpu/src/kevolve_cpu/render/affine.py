"""Index arithmetic: what address a load or store touches, as an affine form in the loop axes.

Loads reach this module with one logical index a dimension; `flatten` turns them into one element offset.
An offset is ``constant + sum(coefficient * axis) + sum(coefficient * rest)`` where a rest is anything that is
not affine (a value loaded from memory, a remainder).
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from kevolve_core.ir import Buffer, Const, Expr, Index, Let, Load, LoopNest, Op, Var
from kevolve_core.model import freeze

__all__ = ["Affine", "affine_lets", "analyse", "offset_of"]


@frozen
class Affine:
    """``constant + sum(terms[axis] * axis) + sum(k * e for e, k in rest)``."""

    constant: int = 0
    terms: Mapping[str, int] = field(factory=dict, converter=freeze, hash=False)
    rest: tuple[tuple[Expr, int], ...] = ()

    def plus(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for axis, k in other.terms.items():
            terms[axis] = terms.get(axis, 0) + k
        rest = list(self.rest)
        for e, k in other.rest:
            at = next((i for i, (known, _) in enumerate(rest) if known is e or known == e), None)
            if at is None:
                rest.append((e, k))
            else:
                rest[at] = (e, rest[at][1] + k)
        return Affine(
            self.constant + other.constant,
            {a: k for a, k in terms.items() if k},
            tuple((e, k) for e, k in rest if k),
        )

    def times(self, factor: int) -> Affine:
        if factor == 0:
            return Affine()
        return Affine(
            self.constant * factor,
            {a: k * factor for a, k in self.terms.items()},
            tuple((e, k * factor) for e, k in self.rest),
        )

    def stride(self, axis: str) -> int:
        """Elements between neighbours along ``axis``, as far as the affine part says."""
        return self.terms.get(axis, 0)


def analyse(e: Expr, lets: Mapping[str, Affine]) -> Affine:
    """The affine form of integer expression ``e``; ``lets`` are named values that are affine themselves."""
    if isinstance(e, Const):
        return Affine(int(e.value))
    if isinstance(e, Index):
        return Affine(0, {e.axis: 1})
    if isinstance(e, Var) and e.name in lets:
        return lets[e.name]
    if isinstance(e, Op) and e.dtype == "int64":
        if e.name in ("add", "sub"):
            left, right = (analyse(a, lets) for a in e.args)
            return left.plus(right if e.name == "add" else right.times(-1))
        if e.name == "neg":
            return analyse(e.args[0], lets).times(-1)
        if e.name == "mul":
            left, right = (analyse(a, lets) for a in e.args)
            for a, b in ((left, right), (right, left)):
                if not a.terms and not a.rest:
                    return b.times(a.constant)
        if e.name == "cast" and not isinstance(e.args[0], (Const, Load)) and _is_int64(e.args[0]):
            return analyse(e.args[0], lets)
    return Affine(0, {}, ((e, 1),))


def _is_int64(e: Expr) -> bool:
    return e.dtype == "int64"


def offset_of(buffer: Buffer, index: tuple[Expr, ...], lets: Mapping[str, Affine]) -> Affine:
    """Element offset of ``buffer[index]``."""
    total = Affine()
    for e, stride in zip(index, buffer.stride, strict=True):
        total = total.plus(analyse(e, lets).times(stride))
    return total


def affine_lets(nest: LoopNest) -> dict[str, Affine]:
    """Named integer values of a nest that are affine in its axes."""
    known: dict[str, Affine] = {}
    for s in nest.body:
        if isinstance(s, Let) and s.value.dtype == "int64":
            form = analyse(s.value, known)
            if not form.rest:
                known[s.name] = form
    return known
