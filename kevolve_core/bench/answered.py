"""One input set on the device with the float64 answer on it, lean enough for problems of gigabytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from kevolve_core.errors import KevolveError
from kevolve_core.evaluate.tolerance import (
    BaselineLeaf,
    baseline_leaf,
    compare,
    parity_bound,
    scale_of,
    surely_within,
)
from kevolve_core.isolate.tensors import describe, flatten
from kevolve_core.spec.runtime import LoadedReference

__all__ = ["AnsweredInputs"]

Call = Callable[..., Any]
_COPIED_BYTES = 1 << 30  # of inputs up to which a reference gets copies of its own
_SLICE = 1 << 26  # elements of a result that are compared at a time


class AnsweredInputs:
    """One input set with the float64 answer on it and the eager baseline's error."""

    def __init__(self, inputs: list[Any], eager: Call, double: LoadedReference) -> None:
        self.inputs = inputs
        leaves, self._structure = flatten(eager(*_copies(inputs)))
        self._signature = [describe(v) for v in leaves]
        self.nbytes = sum(v.numel() * v.element_size() for v in leaves)
        self._exact = [v.contiguous() for v in flatten(double.call(*_copies(inputs)))[0]]
        if lacking := [r for r in double.refused if "OutOfMemory" in r]:
            raise KevolveError("the float64 reference does not fit the device's memory", got=lacking[0])
        sides = zip(leaves, self._exact, strict=True)
        self._leaves = [_baseline_leaf(v, exact) for v, exact in sides]
        self._scales = [scale_of(v) if v.is_floating_point() else 0.0 for v in self._exact]
        self.has_nan = any(v.is_floating_point() and bool(v.isnan().any()) for v in leaves)

    def wrong(self, output: Any, precision: Any) -> str:
        """Why an output is wrong, or ""."""
        leaves, structure = flatten(output)
        if structure != self._structure:
            return "the result has another tree structure"
        for k, (leaf, signature, exact, own, scale) in enumerate(self._rows(leaves)):
            if not isinstance(leaf, torch.Tensor) or describe(leaf) != signature:
                return f"output {k} has another type"
            if precision.policy == "parity" and _surely_right(leaf, exact, own, scale):
                continue
            if (mismatch := compare(leaf, exact, own, precision, scale)) is not None:
                return f"output {k}: {mismatch.reason} {mismatch.detail()}"
        return ""

    def _rows(self, leaves: list[Any]) -> Iterator[tuple[Any, str, torch.Tensor, BaselineLeaf, float]]:
        return zip(leaves, self._signature, self._exact, self._leaves, self._scales, strict=True)

    def free(self) -> None:
        """Let go of the tensors."""
        self.inputs, self._exact = [], []


def _parts(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A few million elements at a time: float64 copies of results of gigabytes do not fit beside them."""
    parts: tuple[torch.Tensor, ...] = value.reshape(-1).split(_SLICE)
    return parts


def _baseline_leaf(value: torch.Tensor, exact: torch.Tensor) -> BaselineLeaf:
    """`baseline_leaf`, of a large one a part at a time."""
    if value.numel() <= _SLICE or not value.is_floating_point():
        return baseline_leaf(value, exact)
    parts = [baseline_leaf(v, e) for v, e in zip(_parts(value), _parts(exact), strict=True)]
    finite = all(p.value is None for p in parts)
    return BaselineLeaf(max(p.error for p in parts), None if finite else value)


def _surely_right(leaf: torch.Tensor, exact: torch.Tensor, own: BaselineLeaf, scale: float) -> bool:
    """Whether a large floating result is surely within the parity bound; no is not yet wrong."""
    if leaf.numel() <= _SLICE or not leaf.is_floating_point():
        return False
    bound = parity_bound(leaf.dtype, scale, own)
    parts = _parts(leaf)
    values = [None] * len(parts) if own.value is None else _parts(own.value)
    rows = zip(parts, _parts(exact), values, strict=True)
    return all(surely_within(v, e, BaselineLeaf(own.error, b), bound) for v, e, b in rows)


def _copies(inputs: Sequence[Any]) -> list[Any]:
    """Inputs that a reference may write into; those of gigabytes as they are."""
    if sum(t.numel() * t.element_size() for t in inputs if isinstance(t, torch.Tensor)) > _COPIED_BYTES:
        return list(inputs)
    return [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
