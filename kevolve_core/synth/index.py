"""Index arithmetic: expressions over loop indices in affine normal form, with ranges.

Every index that lowering builds goes through these constructors, so that equal positions are equal
expressions and reshapes cancel: ``(n * 12 + c) // 12`` is ``n`` where ``c < 12``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from kevolve_core.ir import Const, Expr, Index, Load, Op, Var

__all__ = ["ZERO", "Indexer", "Linear", "integer", "linear", "rebuild"]

#: (constant, coefficient by atom). An atom is whatever is not a sum or a multiple.
Linear = tuple[int, dict[Expr, int]]

_UNBOUNDED = 1 << 62


def integer(value: int) -> Const:
    """An int64 literal."""
    return Const(int(value), "int64")


ZERO = integer(0)


@lru_cache(maxsize=1 << 16)
def linear(e: Expr) -> Linear:
    """``e`` as constant + sum of coefficient * atom. Callers do not change it: it is kept."""
    if isinstance(e, Const):
        return int(e.value), {}
    if isinstance(e, Op) and e.dtype == "int64":
        if e.name in {"add", "sub"}:
            sign = 1 if e.name == "add" else -1
            return _add(linear(e.args[0]), linear(e.args[1]), sign)
        if e.name == "mul":
            left, right = linear(e.args[0]), linear(e.args[1])
            if not right[1]:
                return _times(left, right[0])
            if not left[1]:
                return _times(right, left[0])
        if e.name == "neg":
            return _times(linear(e.args[0]), -1)
    return 0, {e: 1}


def _add(a: Linear, b: Linear, sign: int = 1) -> Linear:
    terms = dict(a[1])
    for atom, c in b[1].items():
        terms[atom] = terms.get(atom, 0) + sign * c
    return a[0] + sign * b[0], {k: v for k, v in terms.items() if v}


def _times(a: Linear, by: int) -> Linear:
    return a[0] * by, {k: v * by for k, v in a[1].items() if v * by}


def _order(item: tuple[Expr, int]) -> tuple[int, int, str]:
    atom, coefficient = item
    if isinstance(atom, Index):
        return (1, -abs(coefficient), atom.axis)
    return (0, -abs(coefficient), _text(atom))


@lru_cache(maxsize=1 << 14)
def _text(atom: Expr) -> str:
    return atom.name if isinstance(atom, Var) else repr(atom)


def delinearised(form: Linear) -> Expr:
    """The expression of a linear form, in one canonical order of terms."""
    constant, terms = form
    out: Expr | None = None
    for atom, c in sorted(terms.items(), key=_order):
        term = atom if abs(c) == 1 else Op("mul", (atom, integer(abs(c))), "int64")
        if out is None:
            out = term if c > 0 else Op("neg", (term,), "int64")
        else:
            out = Op("add" if c > 0 else "sub", (out, term), "int64")
    if out is None:
        return integer(constant)
    if constant:
        return Op("add" if constant > 0 else "sub", (out, integer(abs(constant))), "int64")
    return out


class Indexer:
    """Constructors that simplify; they know the extent of every axis and the range of some atoms."""

    def __init__(self) -> None:
        self.extents: dict[str, int] = {}
        self.ranges: dict[Expr, tuple[int, int]] = {}
        self._count = 0

    def axis(self, extent: int) -> Index:
        """A new axis of ``extent``."""
        name = f"a{self._count}"
        self._count += 1
        self.extents[name] = extent
        return Index(name)

    def bounds(self, e: Expr) -> tuple[int, int]:
        """Smallest and largest value ``e`` can take (inclusive), as far as known."""
        constant, terms = linear(e)
        low = high = constant
        for atom, c in terms.items():
            a, b = self._atom_bounds(atom)
            low += min(a * c, b * c)
            high += max(a * c, b * c)
        return low, high

    def bounded(self, e: Expr) -> tuple[int, int] | None:
        """`bounds` where both ends are known."""
        if e.dtype != "int64":
            return None
        low, high = self.bounds(e)
        return (low, high) if low > -_UNBOUNDED and high < _UNBOUNDED else None

    def _atom_bounds(self, atom: Expr) -> tuple[int, int]:
        if isinstance(atom, Index):
            return 0, self.extents[atom.axis] - 1
        if atom in self.ranges:
            return self.ranges[atom]
        if (
            isinstance(atom, Op)
            and atom.name in {"floordiv", "remainder"}
            and isinstance(atom.args[1], Const)
        ):
            k = int(atom.args[1].value)
            if atom.name == "remainder":
                return 0, k - 1
            low, high = self.bounds(atom.args[0])
            return low // k, high // k
        if isinstance(atom, Op) and atom.dtype == "int64" and atom.name in {"min", "max", "where"}:
            (a, b), (c, d) = (self.bounds(e) for e in atom.args[-2:])
            if atom.name == "where":
                return min(a, c), max(b, d)
            return (min(a, c), min(b, d)) if atom.name == "min" else (max(a, c), max(b, d))
        return -_UNBOUNDED, _UNBOUNDED

    def add(self, a: Expr, b: Expr) -> Expr:
        return delinearised(_add(linear(a), linear(b)))

    def sub(self, a: Expr, b: Expr) -> Expr:
        return delinearised(_add(linear(a), linear(b), -1))

    def scale(self, a: Expr, by: int) -> Expr:
        return delinearised(_times(linear(a), by))

    def dot(self, index: Sequence[Expr], strides: Sequence[int]) -> Expr:
        """The offset of ``index`` under ``strides``."""
        total: Linear = (0, {})
        for e, s in zip(index, strides, strict=True):
            total = _add(total, _times(linear(e), s))
        return delinearised(total)

    def _divided(self, e: Expr, k: int) -> tuple[Linear, Linear]:
        """``e`` as ``k * quotient + rest``, with the rest in [0, k) wherever ranges can show it."""
        constant, terms = linear(e)
        quotient: dict[Expr, int] = {a: c // k for a, c in terms.items() if c % k == 0}
        rest = {a: c for a, c in terms.items() if c % k}
        q0, r0 = divmod(constant, k)
        if rest:
            low, high = self.bounds(delinearised((constant, rest)))
            if low // k == high // k:
                return (low // k, quotient), (constant - (low // k) * k, rest)
        return (q0, quotient), (r0, rest)

    def floordiv(self, e: Expr, k: int) -> Expr:
        if k == 1:
            return e
        quotient, rest = self._divided(e, k)
        r = delinearised(rest)
        low, high = self.bounds(r)
        if low >= 0 and high < k:
            return delinearised(quotient)
        if isinstance(r, Op) and r.name == "floordiv" and isinstance(r.args[1], Const):
            inner = self.floordiv(r.args[0], k * int(r.args[1].value))
            return self.add(delinearised(quotient), inner)
        return self.add(delinearised(quotient), Op("floordiv", (r, integer(k)), "int64"))

    def remainder(self, e: Expr, k: int) -> Expr:
        if k == 1:
            return ZERO
        _, rest = self._divided(e, k)
        r = delinearised(rest)
        low, high = self.bounds(r)
        if low >= 0 and high < k:
            return r
        return Op("remainder", (r, integer(k)), "int64")

    def unravel(self, offset: Expr, shape: Sequence[int]) -> tuple[Expr, ...]:
        """The index into a contiguous ``shape`` of a flat ``offset``, which is known to be inside."""
        out: list[Expr] = []
        step = 1
        for position in range(len(shape) - 1, -1, -1):
            n = shape[position]
            part = self.floordiv(offset, step)
            if n == 1:
                out.append(ZERO)
            elif any(m > 1 for m in shape[:position]):
                out.append(self.remainder(part, n))
            else:
                out.append(part)
            step *= n
        return tuple(reversed(out))

    def ravel(self, index: Sequence[Expr], shape: Sequence[int]) -> Expr:
        """The flat offset of ``index`` in a contiguous ``shape``."""
        strides: list[int] = []
        step = 1
        for n in reversed(shape):
            strides.append(step)
            step *= n
        return self.dot(index, tuple(reversed(strides)))

    def substitute(self, e: Expr, by: Mapping[str, Expr], memo: dict[Expr, Expr] | None = None) -> Expr:
        """``e`` with axes replaced, index arithmetic simplified again."""
        memo = {} if memo is None else memo
        if (found := memo.get(e)) is not None:
            return found
        out: Expr
        if isinstance(e, Index):
            out = by.get(e.axis, e)
        elif isinstance(e, Op) and e.name == "where":
            test = self.substitute(e.args[0], by, memo)
            if isinstance(test, Const):  # the other side is not even looked at: there may be hundreds
                out = self.substitute(e.args[1] if test.value else e.args[2], by, memo)
            else:
                sides = (self.substitute(a, by, memo) for a in e.args[1:])
                out = Op("where", (test, *sides), e.dtype)
        elif isinstance(e, Op):
            out = self.op(e.name, tuple(self.substitute(a, by, memo) for a in e.args), e.dtype)
        elif isinstance(e, Load):
            out = Load(
                e.buffer,
                tuple(self.substitute(i, by, memo) for i in e.index),
                e.dtype,
                None if e.mask is None else self.substitute(e.mask, by, memo),
                None if e.other is None else self.substitute(e.other, by, memo),
            )
        else:
            out = e
        memo[e] = out
        if e in self.ranges and out not in self.ranges and not isinstance(out, Const):
            self.ranges[out] = self.ranges[e]
        return out

    def op(self, name: str, args: tuple[Expr, ...], dtype: str) -> Expr:
        """An operator, through the simplifying constructors where it is index arithmetic."""
        if dtype == "int64":
            if name == "add":
                return self.add(*args)
            if name == "sub":
                return self.sub(*args)
            if name == "neg":
                return self.scale(args[0], -1)
            if name == "mul" and isinstance(args[1], Const):
                return self.scale(args[0], int(args[1].value))
            if name == "mul" and isinstance(args[0], Const):
                return self.scale(args[1], int(args[0].value))
            if name in {"floordiv", "remainder"} and isinstance(args[1], Const) and int(args[1].value) > 0:
                k = int(args[1].value)
                return self.floordiv(args[0], k) if name == "floordiv" else self.remainder(args[0], k)
        if name in {"lt", "ge"} and args[0].dtype == "int64" and isinstance(args[1], Const):
            return self.compare(name, args[0], int(args[1].value))
        if name in {"logical_and", "logical_or"}:
            for one, other in (args, args[::-1]):
                if isinstance(one, Const):
                    return other if bool(one.value) == (name == "logical_and") else one
        if name == "where" and isinstance(args[0], Const):
            return args[1] if args[0].value else args[2]
        return Op(name, args, dtype)

    def compare(self, name: str, e: Expr, bound: int) -> Expr:
        """``e < bound`` or ``e >= bound`` as a bool, decided where ranges decide it."""
        low, high = self.bounds(e)
        if name == "lt" and (high < bound or low >= bound):
            return Const(high < bound, "bool")
        if name == "ge" and (low >= bound or high < bound):
            return Const(low >= bound, "bool")
        return Op(name, (e, integer(bound)), "bool")


def rebuild(e: Expr, args: Iterable[Expr]) -> Expr:
    """``e`` with its children replaced, in the order of `kevolve_core.ir.children`."""
    parts = list(args)
    if isinstance(e, Op):
        return Op(e.name, tuple(parts), e.dtype)
    if isinstance(e, Load):
        n = len(e.index)
        rest = parts[n:]
        mask = rest.pop(0) if e.mask is not None else None
        other = rest.pop(0) if e.other is not None else None
        return Load(e.buffer, tuple(parts[:n]), e.dtype, mask, other)
    return e
