"""Definitions become statements: virtual ones are inlined where they are read, under the reader's index.

The same walk serves analysis (which stored tensors does a definition read, and where?) and emission (the
body of a nest).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import frozen

from kevolve_core.ir import Const, Expr, Index, Let, Load, Op, Search, Statement, Var, axes_of, children, walk
from kevolve_core.synth.index import Indexer, rebuild
from kevolve_core.synth.lower import Def
from kevolve_core.synth.lower.core import cast

__all__ = ["Access", "Inliner"]

LEAVES = frozenset(["input", "param", "constant", "library"])


@frozen
class Access:
    """A read of stored or reduced definition ``name`` at logical ``index``."""

    name: str
    index: tuple[Expr, ...]


class Inliner:
    """Evaluates expressions over definitions.

    Args:
        defs: by name.
        ix: index arithmetic.
        stored: definitions that lie in memory, or are reductions; others are inlined.
        resolve: what a read of a stored definition becomes; None for those evaluated here (members that are
            stored as well).
    """

    def __init__(
        self,
        defs: Mapping[str, Def],
        ix: Indexer,
        stored: Callable[[str], bool],
        resolve: Callable[[Load], Expr | None],
    ) -> None:
        self.defs = defs
        self.ix = ix
        self.stored = stored
        self.resolve = resolve
        self.body: list[Statement] = []
        self.accesses: dict[Access, None] = {}
        self.covers: dict[str, None] = {}
        self._memo: dict[tuple[str, tuple[Expr, ...], Expr | None], Expr] = {}
        self._values: dict[Expr, Var] = {}
        self._names: dict[str, int] = {}

    def name(self, base: str) -> str:
        """A fresh name for a value."""
        n = self._names.get(base, 0)
        self._names[base] = n + 1
        return base if not n else f"{base}__{n}"

    def evaluated(self, d: Def, axes: Mapping[str, Expr]) -> Expr:
        """The value expression of ``d`` with its own axes replaced (not memoised: for reductions)."""
        assert d.value is not None
        self.covers[d.name] = None
        return self._expand(self.ix.substitute(d.value, axes), None, {})

    def placed(self, d: Def, axes: Mapping[str, Expr]) -> tuple[tuple[Expr, ...], Expr]:
        """Where and what scattered definition ``d`` stores at a point of its loops."""
        memo: dict[Expr, Expr] = {}
        place = tuple(self._expand(self.ix.substitute(e, axes), None, memo) for e in d.row_index)
        return place, self.evaluated(d, axes)

    def at(self, d: Def, index: tuple[Expr, ...], mask: Expr | None = None) -> Expr:
        """The element of virtual definition ``d`` at ``index``."""
        key = (d.name, index, mask)
        if (found := self._memo.get(key)) is not None:
            return found
        by = {a.axis: i for a, i in zip(d.axes, index, strict=True) if isinstance(a, Index)}
        self.covers[d.name] = None
        assert d.value is not None
        value = self._expand(self.ix.substitute(d.value, by), mask, {})
        if d.kind == "search":
            row_index = tuple(self._expand(self.ix.substitute(e, by), mask, {}) for e in d.row_index)
            self.accesses[Access(d.row, (*row_index, Const(0, "int64")))] = None
            name = self.name(d.name)
            self.body.append(Search(name, d.row, row_index, value, d.right))
            out: Expr = Var(name, "int64")
            self.ix.ranges[out] = (0, self.defs[d.row].shape[-1])
        elif isinstance(value, (Const, Index, Var)):
            out = value
        elif value in self._values:
            out = self._values[value]
        else:
            name = self.name(d.name)
            self.body.append(Let(name, value))
            out = self._values[value] = Var(name, value.dtype)
            if (known := self.ix.bounded(value)) is not None:
                self.ix.ranges[out] = known
        self._memo[key] = out
        return out

    def _expand(self, e: Expr, mask: Expr | None, memo: dict[Expr, Expr]) -> Expr:
        if (found := memo.get(e)) is not None:
            return found
        if isinstance(e, Load):
            out = self._load(e, mask, memo)
        elif isinstance(e, Op):
            out = self._operator(e, mask, memo)
        else:
            out = rebuild(e, (self._expand(c, mask, memo) for c in children(e))) if children(e) else e
        if e in self.ix.ranges and not isinstance(out, Const):
            self.ix.ranges.setdefault(out, self.ix.ranges[e])
        memo[e] = out
        return out

    def _operator(self, e: Op, mask: Expr | None, memo: dict[Expr, Expr]) -> Expr:
        """An operator; of a condition that is decided only the side that is taken."""
        if e.name == "where" and isinstance(taken := self._expand(e.args[0], mask, memo), Const):
            return self._expand(e.args[1] if taken.value else e.args[2], mask, memo)
        args = tuple(self._expand(a, mask, memo) for a in e.args)
        return self.ix.op(e.name, args, e.dtype)

    def _load(self, e: Load, mask: Expr | None, memo: dict[Expr, Expr]) -> Expr:
        """A load: of memory, of a value of this nest, or of a virtual definition, which is inlined under the
        mask so that it reads nothing outside."""
        index = tuple(self._expand(i, mask, memo) for i in e.index)
        own = None if e.mask is None else self._expand(e.mask, mask, memo)
        other = None if e.other is None else self._expand(e.other, mask, memo)
        if isinstance(own, Const):  # decided where the loop is cut into segments
            if not own.value:
                return _other(other, e.dtype)
            own = None
        d = self.defs[e.buffer]
        if mask is not None and self._is_apart(index, d.shape, mask):
            mask = None
        both = own if mask is None else mask if own is None else _and(mask, own)
        if self.stored(e.buffer):
            self.accesses[Access(e.buffer, index)] = None
            plain = Load(e.buffer, index, e.dtype, both, _other(other, e.dtype) if both is not None else None)
            resolved = self.resolve(plain)
            if resolved is not None:
                if isinstance(resolved, Load) or own is None:
                    return resolved
                return Op("where", (own, resolved, _other(other, e.dtype)), e.dtype)
        value = self.at(d, index, both)
        if own is None:
            return value
        return Op("where", (own, value, _other(other, e.dtype)), e.dtype)

    def _is_apart(self, index: tuple[Expr, ...], shape: tuple[int, ...], mask: Expr) -> bool:
        """Whether ``index`` is inside of ``shape`` wherever it is, and moves along none of the loops of
        ``mask``: what is read there (a channel's statistics) is read once, whatever the mask says."""
        if any(axes_of(i) & axes_of(mask) for i in index) or any(isinstance(n, Var) for n in walk(mask)):
            return False
        ranges = [self.ix.bounds(i) for i in index]
        return all(low >= 0 and high < n for (low, high), n in zip(ranges, shape, strict=True))


def _and(a: Expr, b: Expr) -> Expr:
    return a if a == b else Op("logical_and", (a, b), "bool")


def _other(e: Expr | None, dtype: str) -> Expr:
    return cast(Const(0, "int64"), dtype) if e is None else e
