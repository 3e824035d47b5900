"""Operators taken apart as the library's own kernels compute them, where PyTorch's decompositions differ from
those: in what infinities and NaN do, and in labels that are padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

__all__ = [
    "DECOMPOSITIONS",
    "grid_sampler_2d",
    "layer_norm_backward",
    "multi_margin_loss",
    "multilabel_margin_loss",
]

_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER = 0, 1
_MEAN, _SUM = 1, 2
_CUBIC = -0.75  # of ATen's bicubic convolution


def grid_sampler_2d(
    x: torch.Tensor, grid: torch.Tensor, interpolation: int = 0, padding: int = 0, align_corners: bool = False
) -> torch.Tensor:
    """``x`` (N, C, H, W) at the positions of ``grid`` (N, H', W', 2).

    A sample outside of ``x`` is 0, whatever the values there are. Positions are in float64, so that weights
    are right to the last digit.
    """
    positions = grid.to(torch.float64)
    place = [_unnormalised(positions[..., d], x.shape[3 - d], align_corners) for d in (0, 1)]
    if interpolation in {_BILINEAR, _NEAREST}:
        place = [_padded(p, x.shape[3 - d], padding, align_corners) for d, p in enumerate(place)]
    if interpolation == _NEAREST:
        return _sample(x, place[0].round(), place[1].round()).to(x.dtype)
    wide = torch.float32 if x.dtype in {torch.float16, torch.bfloat16} else x.dtype
    first = [p.floor() for p in place]
    parts = [p - f for p, f in zip(place, first, strict=True)]
    offsets = (0, 1) if interpolation == _BILINEAR else (-1, 0, 1, 2)
    weights = [_linear(p) if interpolation == _BILINEAR else _cubic(p) for p in parts]
    total: torch.Tensor | None = None
    for (j, dy), (i, dx) in itertools.product(enumerate(offsets), repeat=2):
        at = [first[0] + dx, first[1] + dy]
        if interpolation not in {_BILINEAR, _NEAREST}:
            at = [_padded(p, x.shape[3 - d], padding, align_corners) for d, p in enumerate(at)]
        weight = (weights[0][i] * weights[1][j]).to(wide).unsqueeze(1)
        term = _sample(x, at[0], at[1]).to(wide) * weight
        total = term if total is None else total + term
    assert total is not None
    return total.to(x.dtype)


def _unnormalised(position: torch.Tensor, n: int, align_corners: bool) -> torch.Tensor:
    """From [-1, 1] to samples: its ends are the outermost samples, or with half a sample beyond them."""
    return (position + 1) * ((n - 1) / 2) if align_corners else (position + 1) * (n / 2) - 0.5


def _padded(p: torch.Tensor, n: int, padding: int, align_corners: bool) -> torch.Tensor:
    if padding == _ZEROS:
        return p
    if padding != _BORDER:
        low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
        if span == 0:
            p = torch.zeros_like(p)
        else:
            away = (p - low).abs()
            rest = torch.fmod(away, span)
            odd = torch.remainder(torch.floor(away / span), 2) != 0
            p = torch.where(odd, span - rest, rest) + low
    return torch.where(p.isnan(), 0.0, p.clamp(0, n - 1))


def _sample(x: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """``x`` at whole positions (N, H', W') of every channel, 0 outside."""
    batches, channels, height, width = x.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = [torch.where(inside, p, 0).to(torch.int64).unsqueeze(1) for p in (row, column)]
    batch = torch.arange(batches, device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=x.device).view(1, -1, 1, 1)
    return torch.where(inside.unsqueeze(1), x[batch, channel, at[0], at[1]], 0)


def _linear(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return 1 - t, t


def _cubic(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weights of four neighbours (Keys 1981)."""

    def near(d: torch.Tensor) -> torch.Tensor:
        return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1

    def far(d: torch.Tensor) -> torch.Tensor:
        return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def multi_margin_loss(
    x: torch.Tensor,
    target: torch.Tensor,
    p: int = 1,
    margin: float = 1,
    weight: torch.Tensor | None = None,
    reduction: int = _MEAN,
) -> torch.Tensor:
    """Hinge loss over classes. As in the kernel, what is not greater than zero, NaN included, counts
    nothing."""
    rows, labels = torch.atleast_2d(x), torch.atleast_1d(target).unsqueeze(1)
    z = margin - rows.gather(1, labels) + rows
    powered = z if p == 1 else z * z
    if weight is not None:
        powered = powered * weight[labels]
    other = torch.arange(rows.shape[1], device=x.device) != labels
    loss = torch.where(other & (z > 0), powered, 0)
    if reduction == _MEAN:
        return loss.mean()
    loss = loss.sum(1) / rows.shape[1]
    return loss.sum() if reduction == _SUM else loss.reshape(target.shape)


def multilabel_margin_loss(
    x: torch.Tensor, target: torch.Tensor, reduction: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hinge loss of every label (those before the first -1) over every other class, and which are labels."""
    rows, labels = torch.atleast_2d(x), torch.atleast_2d(target)
    n = rows.shape[1]
    place = torch.arange(n, device=x.device)
    end = torch.where(labels == -1, place, n).amin(1, keepdim=True)
    given = place < end
    chosen = torch.where(given, labels, 0)
    is_label = (given.unsqueeze(2) & (chosen.unsqueeze(2) == place)).any(1)
    z = 1 - rows.gather(1, chosen).unsqueeze(2) + rows.unsqueeze(1)
    counted = given.unsqueeze(2) & ~is_label.unsqueeze(1) & (z > 0)
    loss = torch.where(counted, z, 0).sum((1, 2)) / n
    if reduction == _MEAN:
        loss = loss.mean()
    elif reduction == _SUM:
        loss = loss.sum()
    else:
        loss = loss.reshape(x.shape[:-1])
    return loss, is_label.to(x.dtype).reshape(target.shape)


def layer_norm_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    normalized_shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mask: Sequence[bool],
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of x, weight and bias, those that ``mask`` asks for.

    By the kernel's algebra, whose infinities and NaN others would not give; its sums of large terms that
    cancel are in float64.
    """
    inner = list(range(x.dim() - len(normalized_shape), x.dim()))
    outer = list(range(inner[0]))
    n = math.prod(normalized_shape)
    g, v, center, scale = (t.to(torch.float64) for t in (gradient, x, mean, rstd))
    dx = dw = db = None
    if mask[0]:
        weighted = g if weight is None else g * weight.to(torch.float64)
        total = weighted.sum(inner, keepdim=True)
        slope = (total * center - (weighted * v).sum(inner, keepdim=True)) * scale**3 / n
        dx = (scale * weighted + slope * v + (-slope * center - total * scale / n)).to(x.dtype)
    if mask[1] and weight is not None:
        products = g * (scale * v - scale * center)
        dw = (products.sum(outer) if outer else products).to(weight.dtype)
    if mask[2] and bias is not None:
        db = (g.sum(outer) if outer else g).to(bias.dtype)
    return dx, dw, db


DECOMPOSITIONS: dict[Any, Any] = {
    torch.ops.aten.grid_sampler_2d.default: grid_sampler_2d,
    torch.ops.aten.native_layer_norm_backward.default: layer_norm_backward,
    torch.ops.aten.multi_margin_loss.default: multi_margin_loss,
    torch.ops.aten.multilabel_margin_loss_forward.default: multilabel_margin_loss,
}
