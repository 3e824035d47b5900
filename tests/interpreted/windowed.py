"""Sums over windows: depthwise convolutions and pooling, as layers of networks and on their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["CHANNELS_LAST", "POOLS", "WINDOWED", "WINDOWS"]

#: Points of the schedule space: one result at a time, and several of a number that no shape is a multiple of.
WINDOWS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "one by one": {"together": 1, "rows": 4, "cols": 4},
    "together": {"together": 3, "rows": 2, "cols": 8},
}


def _block() -> nn.Module:
    torch.manual_seed(1)
    block = nn.Sequential(
        nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False), nn.BatchNorm2d(6),
        nn.ReLU6(),
    )  # fmt: skip
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()  # type: ignore[operator, union-attr]
            m.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
    return block.eval()


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(4, 4, 5, padding=2, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.hardswish(self.layer(x))


class _Separable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.ReLU6(), nn.Conv2d(6, 8, 1), nn.ReLU6()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def _layer(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return make().eval()


#: name -> (function, shape of its input, dtype)
WINDOWED: Mapping[str, tuple[Callable[..., Any], tuple[int, ...], torch.dtype]] = {
    "1d": (_layer(lambda: nn.Conv1d(3, 3, 4, 1, 2, groups=3)), (2, 3, 37), torch.float32),
    "2d": (_layer(lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False)), (2, 4, 9, 10), torch.float32),
    "strided and dilated": (
        _layer(lambda: nn.Conv2d(4, 4, (3, 2), (2, 3), (2, 1), (2, 3), groups=4)), (2, 4, 11, 14),
        torch.float32,
    ),
    "one column": (_layer(lambda: nn.Conv2d(4, 4, (3, 1), groups=4)), (2, 4, 9, 10), torch.float32),
    "multiplier": (_layer(lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3)), (2, 3, 6, 7), torch.float32),
    "few channels a group": (_layer(lambda: nn.Conv2d(6, 4, 3, 1, 1, groups=2)), (2, 6, 8, 9), torch.float32),
    "3d": (_layer(lambda: nn.Conv3d(2, 2, (2, 3, 3), padding=1, groups=2)), (2, 2, 4, 5, 6), torch.float32),
    "half": (_layer(lambda: nn.Conv2d(4, 4, 3, 2, 1, groups=4).half()), (2, 4, 11, 12), torch.float16),
    "bfloat16": (_layer(lambda: nn.Conv2d(4, 4, 3, 1, 1, groups=4).bfloat16()), (2, 4, 9, 8), torch.bfloat16),
    "between norms": (_block(), (2, 6, 13, 12), torch.float32),
    "residual": (_Residual(), (2, 4, 7, 9), torch.float32),
}  # fmt: skip
#: Likewise; on channels-last memory.
CHANNELS_LAST = {"separable, channels last": (_Separable(), (2, 6, 9, 8), torch.float32)}
#: Likewise.
POOLS: Mapping[str, tuple[Callable[..., Any], tuple[int, ...], torch.dtype]] = {
    "average, 1d": (lambda x: F.avg_pool1d(x, 8, 1, 4), (3, 5, 65), torch.float32),
    "average, 2d": (lambda x: F.avg_pool2d(x, 3, 2, 1), (3, 5, 15, 13), torch.float32),
    "average, 3d, not counting": (
        lambda x: F.avg_pool3d(x, (2, 3, 2), 2, (1, 1, 0), count_include_pad=False), (2, 3, 7, 9, 8),
        torch.float32,
    ),
    "average in half precision": (lambda x: F.avg_pool2d(x.relu(), 2), (2, 3, 12, 14), torch.float16),
}  # fmt: skip
