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
    scale_of,
)
from kevolve_core.isolate.tensors import describe, flatten
from kevolve_core.spec.runtime import LoadedReference

__all__ = ["AnsweredInputs"]

Call = Callable[..., Any]
_COPIED_BYTES = 1 << 30  # of inputs up to which a reference gets copies of its own


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
        self._leaves = [baseline_leaf(v, exact) for v, exact in sides]
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
            if (mismatch := compare(leaf, exact, own, precision, scale)) is not None:
                return f"output {k}: {mismatch.reason} {mismatch.detail()}"
        return ""

    def _rows(self, leaves: list[Any]) -> Iterator[tuple[Any, str, torch.Tensor, BaselineLeaf, float]]:
        return zip(leaves, self._signature, self._exact, self._leaves, self._scales, strict=True)

    def free(self) -> None:
        """Let go of the tensors."""
        self.inputs, self._exact = [], []


def _copies(inputs: Sequence[Any]) -> list[Any]:
    """Inputs that a reference may write into; those of gigabytes as they are."""
    if sum(t.numel() * t.element_size() for t in inputs if isinstance(t, torch.Tensor)) > _COPIED_BYTES:
        return list(inputs)
    return [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
