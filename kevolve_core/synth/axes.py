"""Axes of definitions: split where index maps divide, and matched between a reader and what it reads."""

from __future__ import annotations

from collections.abc import Mapping

from kevolve_core.ir import Const, Expr, Index, Op, walk
from kevolve_core.synth.index import Indexer, linear
from kevolve_core.synth.lower import Def

__all__ = ["Axes"]


class Axes:
    """Own axes of definitions, split where index maps ask for it."""

    def __init__(self, ix: Indexer) -> None:
        self.ix = ix
        self._splits: dict[str, tuple[str, str, int]] = {}
        self.whole: set[str] = set()  # axes of scans, which run along them unbroken

    def split(self, axis: str, factor: int) -> None:
        """Turn ``axis`` into a slow and a fast axis, the fast one of extent ``factor``."""
        slow, fast = self.ix.axis(self.ix.extents[axis] // factor), self.ix.axis(factor)
        self._splits[axis] = (slow.axis, fast.axis, factor)

    def pieces(self, axis: str) -> tuple[str, ...]:
        """What ``axis`` was split into, slowest first."""
        if axis not in self._splits:
            return (axis,)
        slow, fast, _ = self._splits[axis]
        return (*self.pieces(slow), *self.pieces(fast))

    def expression(self, axis: str) -> Expr:
        """``axis`` in terms of its pieces."""
        if axis not in self._splits:
            return Index(axis)
        slow, fast, factor = self._splits[axis]
        return self.ix.add(self.ix.scale(self.expression(slow), factor), self.expression(fast))

    def of(self, d: Def) -> tuple[str, ...]:
        """Pieces of the axes of ``d``'s own index, in order."""
        return tuple(p for a in d.free for p in self.pieces(a))

    def reduced(self, d: Def) -> tuple[str, ...]:
        """Pieces of the axes that ``d`` consumes."""
        return tuple(p for a in d.raxes for p in self.pieces(a))

    def substitution(self, d: Def) -> dict[str, Expr]:
        """Own axes in terms of pieces."""
        return {a: self.expression(a) for a in (*d.free, *d.raxes)}

    def wanted_split(self, e: Expr) -> tuple[str, int] | None:
        """A split that would rid ``e`` of a division, if there is one."""
        for n in walk(e):
            if isinstance(n, Op) and n.name in {"floordiv", "remainder"} and n.dtype == "int64":
                divisor = n.args[1]
                if not isinstance(divisor, Const):
                    continue
                k = int(divisor.value)
                for atom, c in linear(n.args[0])[1].items():
                    if isinstance(atom, Index) and atom.axis not in self.whole and c > 0 and k % c == 0:
                        factor, extent = k // c, self.ix.extents[atom.axis]
                        if 1 < factor < extent and extent % factor == 0:
                            return atom.axis, factor
        return None

    def match(self, own: Expr, read: Expr) -> list[tuple[str, str]] | tuple[str, int] | None:
        """How the position ``read`` names the own index ``own``: pairs of (own axis, reader's axis), or a
        split (axis, factor) that has to come first, or None where it is another position."""
        a, b = linear(own), linear(read)
        if a[0] != b[0]:
            return None
        left, right = _radix(a[1], self.ix), _radix(b[1], self.ix)
        if left is None or right is None:
            return None
        for x, y in ((left, right), (right, left)):
            for c, _, _ in y:
                for c0, extent, axis in x:
                    if (
                        c0 < c < c0 * extent
                        and c % c0 == 0
                        and extent % (c // c0) == 0
                        and axis not in self.whole
                    ):
                        return axis, c // c0
        if [(c, n) for c, n, _ in left] != [(c, n) for c, n, _ in right]:
            return None
        return [(p[2], q[2]) for p, q in zip(left, right, strict=True)]


def _radix(terms: Mapping[Expr, int], ix: Indexer) -> list[tuple[int, int, str]] | None:
    """(coefficient, extent, axis) of a sum over axes only, slowest first."""
    out = []
    for atom, c in terms.items():
        if not isinstance(atom, Index) or c < 0:
            return None
        out.append((c, ix.extents[atom.axis], atom.axis))
    out.sort(key=lambda t: (-t[0], t[2]))
    return out if len({c for c, _, _ in out}) == len(out) else None
