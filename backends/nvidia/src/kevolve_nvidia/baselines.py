"""What a candidate has to beat on a GPU: the reference as PyTorch runs it, and as it compiles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiled", "eager"]


def eager(reference: Callable[..., Any]) -> Callable[..., Any]:
    """The reference itself, under PyTorch's default precision flags: TF32 off for matmuls, on in cuDNN."""
    return reference


def compiled(reference: Callable[..., Any]) -> Callable[..., Any]:
    """The reference under ``torch.compile`` with static shapes. Graph breaks are allowed: a user's would
    break there too. Compiles at the first call of each shape, into ``TORCHINDUCTOR_CACHE_DIR`` of the
    worker's environment."""
    result: Callable[..., Any] = torch.compile(reference, dynamic=False)
    return result
