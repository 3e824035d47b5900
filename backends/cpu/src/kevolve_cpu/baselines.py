"""What a candidate has to beat on a CPU: the reference as PyTorch runs it, and as it compiles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiled", "eager"]


def eager(reference: Callable[..., Any]) -> Callable[..., Any]:
    """The reference itself."""
    return reference


def compiled(reference: Callable[..., Any]) -> Callable[..., Any]:
    """The reference under ``torch.compile`` with static shapes. Graph breaks are allowed: a user's would
    break there too. Compiles at the first call of each shape, into ``TORCHINDUCTOR_CACHE_DIR`` of the
    worker's environment; needs a C++ compiler then."""
    result: Callable[..., Any] = torch.compile(reference, dynamic=False)
    return result
