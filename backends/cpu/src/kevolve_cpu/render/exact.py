"""Where the rounding of a term shows: products that must round alike everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from kevolve_core.ir import Expr, Let, Load, LoopNest, Op, Var, children, walk
from kevolve_cpu.render.tidy import expressions

__all__ = ["Products"]

_FLOATS = ("float32", "float64")


@define(eq=False)
class Products:
    """Floating products that more than one statement of a program computes.

    A compiler fuses a product with the addition after it, which skips the product's rounding. That is closer
    to the truth, but where the other operand was made from the same product, rounded (its maximum, say), what
    should cancel leaves that rounding behind: ``x * x - max(x * x)`` is no longer 0 anywhere.
    """

    _numbers: dict[tuple[Any, ...], int] = field(factory=dict)
    _shared: frozenset[int] = frozenset()

    @classmethod
    def of(cls, nests: Iterable[LoopNest]) -> Products:
        """Those of the program that has these nests."""
        found = cls()
        counts: Counter[int] = Counter()
        for nest in nests:
            lets = {s.name: s.value for s in nest.body if isinstance(s, Let)}
            known: dict[int, int] = {}
            for s in nest.body:
                if not isinstance(s, Let):
                    counts.update(found._within(expressions(s), lets, known))
        found._shared = frozenset(number for number, n in counts.items() if n > 1)
        return found

    def _within(self, roots: Iterable[Expr], lets: Mapping[str, Expr], known: dict[int, int]) -> set[int]:
        seen: set[int] = set()
        found: set[int] = set()
        stack = list(roots)
        while stack:
            e = stack.pop()
            if id(e) in seen:
                continue
            seen.add(id(e))
            if isinstance(e, Op) and e.name == "mul" and e.dtype in _FLOATS:
                found.add(self._number(e, lets, known))
            stack.extend([lets[e.name]] if isinstance(e, Var) and e.name in lets else children(e))
        return found

    def _number(self, e: Expr, lets: Mapping[str, Expr], known: dict[int, int]) -> int:
        """Equal for what computes the same in two nests or passes, whatever its loops are called."""
        if id(e) in known:
            return known[id(e)]
        if isinstance(e, Var) and e.name in lets:
            return self._number(lets[e.name], lets, known)
        if isinstance(e, Load):
            key: tuple[Any, ...] = ("load", e.buffer)
        elif isinstance(e, Op):
            key = (e.name, e.dtype, *(self._number(a, lets, known) for a in e.args))
        else:
            key = (type(e).__name__, getattr(e, "name", ""), repr(getattr(e, "value", "")))
        known[id(e)] = self._numbers.setdefault(key, len(self._numbers))
        return known[id(e)]

    def marks(self, nest: LoopNest) -> tuple[bool, ...]:
        """Which of a nest's products are among them, in the nest's order: what its text depends on beside
        the nest."""
        if not self._shared:
            return ()
        lets = {s.name: s.value for s in nest.body if isinstance(s, Let)}
        known: dict[int, int] = {}
        roots = [e for s in nest.body for e in expressions(s)]
        found = (e for e in dict.fromkeys(x for root in roots for x in walk(root)) if isinstance(e, Op))
        return tuple(self.shared(e, lets, known) for e in found if e.name == "mul" and e.dtype in _FLOATS)

    def shared(self, e: Expr, lets: Mapping[str, Expr], known: dict[int, int]) -> bool:
        """Whether the product ``e`` is one of them. ``lets`` are the named values of its nest; ``known`` is
        kept as long as the nest is."""
        return bool(self._shared) and self._number(e, lets, known) in self._shared
