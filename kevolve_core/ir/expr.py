"""Scalar expressions of the loop IR: a typed, hashable DAG over loop indices, loads and named values.

An expression is evaluated once per point of the loop axes it mentions. Sharing is by value: equal subtrees
are equal objects to a renderer, which names a shared subtree once.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

__all__ = [
    "COSTLY",
    "OPS",
    "Const",
    "Expr",
    "Index",
    "Load",
    "Op",
    "Var",
    "axes_of",
    "children",
    "loads_of",
    "vars_of",
    "walk",
]

#: Pointwise operators: name -> number of arguments. Names are ATen's where ATen has one. Comparison and
#: logical results are ``bool``; ``cast`` converts its argument to the node's dtype; ``where(c, a, b)``
#: selects; ``min``/``max`` propagate NaN as ``torch.minimum``/``maximum`` do; ``fmod`` truncates,
#: ``remainder`` and
#: ``floordiv`` floor; ``round`` goes to even. Integer division never sees a zero divisor that the reference
#: does not see.
OPS: dict[str, int] = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "floordiv": 2, "remainder": 2, "fmod": 2, "pow": 2,
    "min": 2, "max": 2, "atan2": 2, "copysign": 2, "hypot": 2,
    "neg": 1, "abs": 1, "sign": 1, "reciprocal": 1, "sqrt": 1, "rsqrt": 1, "exp": 1, "exp2": 1, "expm1": 1,
    "log": 1, "log2": 1, "log10": 1, "log1p": 1, "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1,
    "atan": 1, "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1, "erf": 1, "erfc": 1,
    "lgamma": 1,
    "sigmoid": 1, "relu": 1, "floor": 1, "ceil": 1, "round": 1, "trunc": 1, "isnan": 1, "isinf": 1,
    "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
    "logical_and": 2, "logical_or": 2, "logical_xor": 2, "logical_not": 1,
    "bitwise_and": 2, "bitwise_or": 2, "bitwise_xor": 2, "bitwise_not": 1, "shift_left": 2, "shift_right": 2,
    "where": 3, "cast": 1, "fma": 3,
}  # fmt: skip
#: Operators that take tens of instructions on most targets.
COSTLY = frozenset(
    ["sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "exp", "exp2", "expm1",
     "log", "log2", "log10", "log1p", "pow", "erf", "erfc", "lgamma", "digamma", "sigmoid"]
)  # fmt: skip


@frozen(cache_hash=True)
class Const:
    """A literal. ``value`` may be ``inf``, ``-inf`` or ``nan`` for floating dtypes."""

    value: float | int | bool
    dtype: str


@frozen(cache_hash=True)
class Index:
    """The value of loop axis ``axis`` (int64)."""

    axis: str
    dtype: str = "int64"


@frozen(cache_hash=True)
class Var:
    """The value of an earlier statement of the same nest (`Let`, `Reduce`, `Scan`, `Search`)."""

    name: str
    dtype: str


@frozen(cache_hash=True)
class Load:
    """One element of ``buffer`` at a logical multi-dimensional ``index`` (one integer expression a dimension;
    the buffer's strides turn it into an address). Where dimensions are contiguous with one another, the last
    of them may hold the flat position of all and the others be 0: one loop over a tensor of shape (2, 3)
    reads ``[0, i]``. Where ``mask`` is given and false, nothing is read and the value is ``other``. A gather
    is a load whose index mentions another load or a `Var`."""

    buffer: str
    index: tuple[Expr, ...]
    dtype: str
    mask: Expr | None = None
    other: Expr | None = None


@frozen(cache_hash=True)
class Op:
    """Operator ``name`` (a key of `OPS`) applied to ``args``, giving ``dtype``. Arguments are already
    promoted."""

    name: str
    args: tuple[Expr, ...]
    dtype: str

    def __attrs_post_init__(self) -> None:
        if OPS.get(self.name) != len(self.args):
            raise ValueError(f"loop IR has no operator {self.name!r} of {len(self.args)} arguments")


Expr = Const | Index | Var | Load | Op


def children(e: Expr) -> tuple[Expr, ...]:
    """Direct subexpressions, in evaluation order."""
    if isinstance(e, Op):
        return e.args
    if isinstance(e, Load):
        return (*e.index, *(x for x in (e.mask, e.other) if x is not None))
    return ()


def walk(e: Expr) -> Iterator[Expr]:
    """Every distinct subexpression, children before parents."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(e, False)]
    while stack:
        node, expanded = stack.pop()
        if node in seen:
            continue
        if expanded:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(children(node)))


def axes_of(e: Expr) -> frozenset[str]:
    """Loop axes mentioned directly (those that a `Var` depends on are the nest's knowledge)."""
    return frozenset(n.axis for n in walk(e) if isinstance(n, Index))


def vars_of(e: Expr) -> frozenset[str]:
    return frozenset(n.name for n in walk(e) if isinstance(n, Var))


def loads_of(e: Expr) -> tuple[Load, ...]:
    return tuple(n for n in walk(e) if isinstance(n, Load))
