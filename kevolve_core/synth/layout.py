"""How tensors are indexed in a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define

from kevolve_core.ir import Buffer, Expr, Op
from kevolve_core.synth.index import ZERO, Indexer, integer, linear

__all__ = ["Layout", "contiguous"]


@define
class Layout:
    """How a tensor is indexed in a program: dimensions that are contiguous with one another are one.

    ``shape`` is the buffer's and ``groups`` lists its dimensions that are one. ``order`` are the tensor's
    own dimensions in the buffer's order, () where they are the same. A tensor that lies inside of another has
    the layout of that, ``whole``, and is at ``start`` in it.
    """

    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    buffer: Buffer
    order: tuple[int, ...] = ()
    whole: Layout | None = None
    start: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        shape: Sequence[int],
        strides: Sequence[int] | None,
        dtype: str,
        role: str,
        keep_last: bool,
        order: Sequence[int] = (),
        **more: Any,
    ) -> Layout:
        """The collapsed layout of a tensor; ``keep_last`` keeps its last dimension apart. With an ``order``
        it lies densely in that order of its dimensions, whatever ``strides`` say."""
        if order:
            shape, strides = [shape[d] for d in order], None
        dense = contiguous(shape)
        steps = tuple(dense if strides is None else strides)
        plain = all(s == t for s, t, n in zip(steps, dense, shape, strict=True) if n != 1)
        groups: list[list[int]] = []
        last = len(shape) - 1
        for d, n in enumerate(shape):
            if n == 1 and not (keep_last and d == last):
                continue
            previous = groups[-1][-1] if groups else -1
            joins = groups and steps[previous] == steps[d] * n and not (keep_last and d == last)
            if joins:
                groups[-1].append(d)
            else:
                groups.append([d])
        buffer = Buffer(name, tuple(shape), dtype, role, strides=None if plain else steps, **more)
        return cls(tuple(shape), tuple(tuple(g) for g in groups), buffer, tuple(order))

    def part(self, start: Sequence[int], shape: Sequence[int]) -> Layout:
        """The layout of a tensor of ``shape`` that is the box at ``start`` in this one."""
        return Layout(tuple(shape), self.groups, self.buffer, self.order, self, tuple(start))

    def flat(self, ix: Indexer, logical: Sequence[Expr]) -> tuple[Expr, ...]:
        """The buffer's index of a tensor's: the position in each run of dimensions in its last, 0 in the
        others."""
        if self.whole is not None:
            moved = [ix.add(e, integer(s)) for e, s in zip(logical, self.start, strict=True)]
            return self.whole.flat(ix, moved)
        logical = [logical[d] for d in self.order] if self.order else logical
        out: list[Expr] = [ZERO] * len(self.shape)
        for g in self.groups:
            out[g[-1]] = ix.ravel([logical[d] for d in g], [self.shape[d] for d in g])
        return tuple(out)

    def spread(self, ix: Indexer, flat: Sequence[Expr]) -> tuple[Expr, ...]:
        """A flat index with one position a dimension, where that needs no division."""
        if self.whole is not None:
            return self.whole.spread(ix, flat)
        out = list(flat)
        for g in self.groups:
            parts = ix.unravel(flat[g[-1]], [self.shape[d] for d in g])
            if not any(_divides(p) for p in parts):
                for d, e in zip(g, parts, strict=True):
                    out[d] = e
        return tuple(out)


def _divides(e: Expr) -> bool:
    """Whether a division is among the terms of ``e`` (one inside a looked-up position does not count)."""
    return any(isinstance(a, Op) and a.name in {"floordiv", "remainder"} for a in linear(e)[1])


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    steps: list[int] = []
    step = 1
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))
