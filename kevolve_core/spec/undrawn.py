"""Modules constructed without drawing their large weights: capturing looks at types alone, and a layer of a
thousand million weights takes ten seconds to fill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Undrawn"]

#: Elements from which a draw is left out: below, drawing costs milliseconds.
LARGE = 1 << 20
_IN_PLACE = frozenset({"uniform_", "normal_", "exponential_", "log_normal_", "cauchy_", "bernoulli_"})
_MADE = frozenset({"rand", "randn"})


class Undrawn(TorchDispatchMode):  # type: ignore[misc]
    """While it is active, large random tensors keep what their memory holds, and so does what is written over
    them in place (a scale, a clamp). ``skipped`` says whether there were any: everything that was drawn after
    one has other values than a seed would give it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped = False
        self._memory: dict[int, torch.Tensor] = {}  # by address; kept, so that no address is given out again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.rpartition("::")[2]
        first = args[0] if args else None
        if name in _IN_PLACE and isinstance(first, torch.Tensor) and first.numel() >= LARGE:
            return self._left(first)
        if name in _MADE and isinstance(first, (list, tuple)) and math.prod(first) >= LARGE:
            kwargs.pop("generator", None)
            return self._left(torch.empty(list(first), **kwargs))
        if name.endswith("_") and isinstance(first, torch.Tensor) and self._knows(first):
            return first
        return func(*args, **kwargs)

    def _left(self, tensor: torch.Tensor) -> torch.Tensor:
        self.skipped = True
        self._memory[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def _knows(self, tensor: torch.Tensor) -> bool:
        return tensor.numel() >= LARGE and tensor.untyped_storage().data_ptr() in self._memory
