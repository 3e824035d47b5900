"""Compulsory work of a reference on given inputs, found by running it: bytes any kernel must move, FLOPs it
must do.

Bytes are a lower bound. Outputs count in full. Of a floating input, the elements that the result depends on
count: those with a non-zero gradient (a gather touches what it gathers; a slice what it keeps). Integer
inputs count in full where no gather reads them selectively, that is, only where they are no larger than the
outputs; otherwise not at all. FLOPs: two a multiply-accumulate in matmuls and convolutions (torch's own
counter), one an output element of any other operator.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kevolve_core.isolate.tensors import flatten
from kevolve_core.spec.runtime import LoadedReference

__all__ = ["compulsory_work"]

_FREE = ("view", "reshape", "permute", "transpose", "expand", "slice", "select", "detach", "alias", "squeeze",
         "t", "unsqueeze", "clone", "empty", "copy", "split", "unbind", "as_strided")  # fmt: skip


class _ElementCounter(TorchDispatchMode):  # type: ignore[misc]
    """Counts the output elements of pointwise operators and the input elements of reductions."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.strip("_") not in _FREE:
            sizes = [v.numel() for v in (*flatten(out)[0], *args) if isinstance(v, torch.Tensor)]
            self.operations += max(sizes, default=0)
        return out


def compulsory_work(reference: LoadedReference, inputs: tuple[Any, ...]) -> dict[str, float]:
    """``{"bytes", "flops", "library_flops"}`` of one call. ``library_flops`` are those in matmuls and
    convolutions."""
    copies = [t.clone() if isinstance(t, torch.Tensor) else t for t in inputs]
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _ElementCounter() as elements:
        out = reference.call(*copies)
    leaves = [v for v in flatten(out)[0] if isinstance(v, torch.Tensor)]
    output_bytes = sum(v.numel() * v.element_size() for v in leaves)
    library = float(flops.get_total_flops())
    return {
        "bytes": float(output_bytes + _influential_bytes(reference, inputs, output_bytes)),
        "flops": library + elements.operations,
        "library_flops": library,
    }


def _influential_bytes(reference: LoadedReference, inputs: tuple[Any, ...], output_bytes: int) -> int:
    total = 0
    floats: list[torch.Tensor] = []
    arguments: list[Any] = []
    for value in inputs:
        if not isinstance(value, torch.Tensor):
            arguments.append(value)
        elif value.is_floating_point():
            floats.append(value.detach().clone().requires_grad_())
            arguments.append(floats[-1].clone())  # a reference may write into its argument
        else:
            size = value.numel() * value.element_size()
            total += size if size <= output_bytes else 0
            arguments.append(value.clone())
    if not floats:
        return total
    try:
        with torch.enable_grad():
            leaves = [v for v in flatten(reference.call(*arguments))[0] if isinstance(v, torch.Tensor)]
            wanted = [v for v in leaves if v.requires_grad]
            if not wanted:
                return total
            weights = [torch.rand_like(v) + 0.5 for v in wanted]
            grads = torch.autograd.grad(wanted, floats, weights, allow_unused=True)
    except (RuntimeError, NotImplementedError):
        return total  # no derivative: nothing is known to be read, and the bound stays a lower one
    for value, grad in zip(floats, grads, strict=True):
        if grad is not None:
            touched = math.ceil(float((grad != 0).sum()))
            total += touched * value.element_size()
    return total
