"""Modules constructed without drawing their large weights: capturing looks at types alone, and a layer of a
thousand million weights takes ten seconds to fill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Undrawn"]

#: Elements from which a draw is left out: below, drawing costs milliseconds.
LARGE = 1 << 20
_IN_PLACE = frozenset({"uniform_", "normal_", "exponential_", "log_normal_", "cauchy_", "bernoulli_"})
_MADE = frozenset({"rand", "randn"})
#: Operators that give Python a value, or a shape that comes from values.
_LOOKING = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
#: Methods that do so without an operator.
_HANDED_OUT = frozenset(
    getattr(torch.Tensor, name) for name in ("tolist", "numpy", "__array__", "__dlpack__")
)


class Undrawn:
    """While it is active, large random tensors keep what their memory holds, and so does what is written over
    them in place (a scale, a clamp). ``skipped`` says whether there were any: everything that was drawn after
    one has other values than a seed would give it. ``looked`` says whether Python was given a value then,
    which raises at once: a loop that draws again until it likes what it sees would not end.
    """

    def __init__(self) -> None:
        self.skipped = False
        self.looked = False
        self._modes = ExitStack()

    def __enter__(self) -> Undrawn:
        self._modes.enter_context(_Operators(self))
        self._modes.enter_context(_Functions(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modes.close()

    def look(self, name: str) -> None:
        """Python is about to be given a value by ``name``."""
        if self.skipped:
            self.looked = True
            raise RuntimeError(f"{name} of a tensor after weights were left undrawn")


class _Functions(TorchFunctionMode):  # type: ignore[misc]
    def __init__(self, owner: Undrawn) -> None:
        super().__init__()
        self._owner = owner

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _HANDED_OUT:
            self._owner.look(func.__name__)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):  # type: ignore[misc]
    def __init__(self, owner: Undrawn) -> None:
        super().__init__()
        self._owner = owner
        self._memory: dict[int, torch.Tensor] = {}  # by address; kept, so that no address is given out again

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.rpartition("::")[2]
        first = args[0] if args else None
        if not _LOOKING.isdisjoint(func.tags):
            self._owner.look(name)
        if name in _IN_PLACE and isinstance(first, torch.Tensor) and first.numel() >= LARGE:
            return self._left(first)
        if name in _MADE and isinstance(first, (list, tuple)) and math.prod(first) >= LARGE:
            kwargs.pop("generator", None)
            return self._left(torch.empty(list(first), **kwargs))
        written = name.endswith("_") and torch.Tag.inplace_view not in func.tags
        if written and isinstance(first, torch.Tensor) and self._knows(first):
            return first
        return func(*args, **kwargs)

    def _left(self, tensor: torch.Tensor) -> torch.Tensor:
        self._owner.skipped = True
        self._memory[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def _knows(self, tensor: torch.Tensor) -> bool:
        return tensor.numel() >= LARGE and tensor.untyped_storage().data_ptr() in self._memory
