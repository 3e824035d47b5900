"""Which sums are so small that they are kept in float64, and what of their terms is with them."""

from __future__ import annotations

from kevolve_core.ir import Expr, Op

__all__ = ["few_results", "in_float64"]

#: Sums of at most `_SHORT` elements, `_FEW` of them in all, are kept in float64: it costs nothing, and where
#: terms cancel, few results are no larger a sample for their error to be like PyTorch's. Estimated.
_FEW, _SHORT = 64, 4096
#: Operators that are exact, or nearly, in float64 on float32 values; others keep their own precision.
_WIDENED = frozenset({"add", "sub", "mul", "neg"})


def few_results(count: int, results: int) -> bool:
    """Whether ``results`` sums of ``count`` elements are so few that they are kept in float64."""
    return count <= _SHORT and results <= _FEW


def in_float64(e: Expr) -> Expr:
    """A float32 term with the additions and multiplications at its top in float64, for sums of few results
    in which terms cancel."""
    if isinstance(e, Op) and e.name in _WIDENED and e.dtype == "float32":
        return Op(e.name, tuple(in_float64(a) for a in e.args), "float64")
    return Op("cast", (e,), "float64")
