"""Attention as one step: what a renderer with a kernel for it needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from kevolve_core.ir.expr import Expr

if TYPE_CHECKING:
    from kevolve_core.ir.program import Axis, LibraryCall, LoopNest

__all__ = ["Attention"]


@frozen
class Attention:
    """``softmax(score(query · key)) · value`` for every point of ``batch`` and ``rows``.

    ``steps`` compute the same one after another, so whoever has no kernel for it runs those
    (`Program.singles`). The rest says what they compute, over the step's own axes and without the buffers
    that pass between them, so that scores need not lie in memory::

        product[b, m, n] = sum over k of query[b, m, k] * key[b, n, k]
        weights          = softmax of score[b, m, n] over n
        output[b, m, w]  = sum over n of weights[b, m, n] * value[b, n, w]
        result           # a nest over b, m and w, which reads ``output`` at its own point alone

    Args:
        name: identifier, stable across cases and runs of the same reference.
        steps: nests that prepare operands, the product of scores with its softmax, the product with values.
        batch, rows, cols, depth, width: axes of problems, queries, keys, the sum of a score, and the results
            of a query; the ``b``, ``m``, ``n``, ``k`` and ``w`` above.
        query, key, value: operands; a conversion around one is the type that it has as an operand.
        product: buffer whose load stands for ``product`` in ``score``; no memory needs to be behind it.
        score: what the softmax is taken of.
        output: buffer whose load stands for ``output`` in ``result``, likewise.
        result: what is stored.
        safe: whether a query whose scores are all ``-inf`` gives zeros; otherwise it gives NaN.
        sees: smallest and largest ``n - m`` at which a score may be above ``-inf``; None where there is no
            such bound. A key outside reaches the result only where something is infinite or NaN: by its
            values, whose product with a weight of 0 is NaN, or by a score that no ``-inf`` hides.
        covers: graph nodes it computes.
        unmasked: ``score`` without the part that hides keys outside of ``sees``, where that part does nothing
            else: with a ``product`` of ``-inf`` there it is ``score``. None where there is no such form.
    """

    name: str
    steps: tuple[LoopNest | LibraryCall, ...]
    batch: Axis
    rows: Axis
    cols: Axis
    depth: Axis
    width: Axis
    query: Expr
    key: Expr
    value: Expr
    product: str
    score: Expr
    output: str
    result: LoopNest
    safe: bool = False
    sees: tuple[int | None, int | None] = (None, None)
    covers: tuple[str, ...] = ()
    unmasked: Expr | None = None
