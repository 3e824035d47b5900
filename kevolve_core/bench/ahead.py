"""``torch.compile`` in two halves: compiling, which needs a core, and running, which needs the device.

A benchmark compiles the baselines of the next problems while the device times another one. Compiling must
then run nothing and hold no memory there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["CompiledAhead", "hollow"]


class _NotArmed(Exception):  # noqa: N818  (no error: it ends a call that was only to compile)
    """Compiled, and not to run yet."""


class CompiledAhead:
    """``torch.compile(reference, dynamic=False)`` with its default compiler. Until `arm`, a call compiles and
    computes nothing."""

    def __init__(self, reference: Callable[..., Any]) -> None:
        self._armed = False
        self._call = torch.compile(reference, dynamic=False, backend=self._compiled)

    def _compiled(self, graph: Any, examples: Sequence[Any]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        inner = compile_fx(graph, examples)

        def run(*arguments: Any) -> Any:
            if not self._armed:
                raise _NotArmed
            return inner(*arguments)

        return run

    def prepare(self, inputs: Sequence[Any]) -> None:
        """Compile for ``inputs``, whose tensors need no memory (`hollow`). Where the reference breaks into
        several graphs, the first one only. Raises what compiling raises."""
        try:
            with torch.no_grad():
                self._call(*inputs)
        except _NotArmed:
            return

    def arm(self) -> None:
        """From now on calls compute."""
        self._armed = True

    def __call__(self, *inputs: Any) -> Any:
        return self._call(*inputs)


def hollow(value: Any, device: torch.device) -> Any:
    """A tensor like ``value`` (of any device) on ``device``, without memory; another value as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
    made.untyped_storage().resize_(0)
    return made
