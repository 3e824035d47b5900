"""Linear interpolation between samples of a grid, in one to three dimensions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen

from kevolve_core.ir import Const, Expr
from kevolve_core.synth.lower.core import Def, Lowering, Value, cast, lowers, wide
from kevolve_core.synth.lower.pointwise import op

__all__: list[str] = []


@frozen
class _Tap:
    """One of the two samples that a position lies between: where it is, and what it counts."""

    at: Callable[[Expr], Expr]
    weight: Callable[[Expr], Expr]


def _taps(
    lowering: Lowering, d: int, n: int, m: int, align: bool, factor: float | None, dtype: str
) -> tuple[_Tap, _Tap]:
    """The samples of ``n`` around each of ``m`` positions of dimension ``d``, in tables: computed as ATen's
    ``compute_source_index_and_lambda`` is compiled (positions rounded once, by a fused multiply-add), since a
    weight that is only nearly zero is none to infinity."""
    kind = getattr(torch, dtype)
    place = torch.arange(m, dtype=torch.float64)
    if align:
        step = torch.tensor((n - 1) / (m - 1) if m > 1 else 0.0, dtype=kind)
        real = (step.double() * place).to(kind)
    else:
        step = torch.tensor(1.0 / factor if factor else n / m, dtype=kind)
        real = (step.double() * (place + 0.5) - 0.5).to(kind).clamp_min(0)
    low = real.to(torch.int64).clamp_max(n - 1)
    high = (low + 1).clamp_max(n - 1)
    part = (real - low.to(kind)).clamp(0, 1)

    def table(values: torch.Tensor, kind: str, name: str) -> Callable[[Expr], Expr]:
        if m == 1:
            (one,) = values.tolist()
            return lambda _: Const(one, kind)
        shape = (m,)
        made = lowering.add(
            Def(lowering._name(f"{name}{d}"), shape, kind, "constant", lowering.own_axes(shape),
                data=tuple(values.tolist()))
        )  # fmt: skip

        def at(i: Expr) -> Expr:
            e = made.at((i,))
            if kind == "int64":
                lowering.ix.ranges[e] = (0, n - 1)
            return e

        return at

    return (
        _Tap(table(low, "int64", "low"), table(1 - part, dtype, "near")),
        _Tap(table(high, "int64", "high"), table(part, dtype, "far")),
    )


@lowers("upsample_linear1d.default", "upsample_linear1d.vec", "upsample_bilinear2d.default",
        "upsample_bilinear2d.vec", "upsample_trilinear3d.default", "upsample_trilinear3d.vec")  # fmt: skip
def _linear(lowering: Lowering, x: Value, size: Any, align: bool, *scales: Any) -> Value:
    """Weights multiply the samples, so that an infinite one stays infinite."""
    del size  # the result's shape has it
    node = lowering.node
    assert node is not None
    shape = node.tensor.shape
    rank = len(shape) - 2
    given = scales[0] if scales and isinstance(scales[0], (list, tuple)) else scales
    factors: Sequence[float | None] = [*given, *([None] * rank)][:rank]
    dtype = wide(x.dtype)

    taps: list[tuple[_Tap, ...]] = [
        _taps(lowering, d, x.shape[d + 2], shape[d + 2], align, factors[d], dtype)
        if shape[d + 2] != x.shape[d + 2] or factors[d] not in {None, 1.0}
        else (_Tap(lambda i: i, lambda _: Const(1.0, dtype)),)
        for d in range(rank)
    ]

    def make(i: tuple[Expr, ...]) -> Expr:
        values = [
            cast(x.at((*i[:2], *(t.at(e) for t, e in zip(chosen, i[2:], strict=True)))), dtype)
            for chosen in itertools.product(*taps)
        ]
        for pair, e in zip(reversed(taps), reversed(i), strict=False):  # the last dimension first
            if len(pair) == 2:
                near, far = pair[0].weight(e), pair[1].weight(e)
                values = [
                    op("add", op("mul", near, a), op("mul", far, b))
                    for a, b in zip(values[::2], values[1::2], strict=True)
                ]
        return values[0]

    return lowering.point(shape, x.dtype, make)
