"""Attention of every kind that becomes one step: what is computed, and on what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

__all__ = ["ATTENTION", "points_of"]

Inputs = Callable[[], list[torch.Tensor]]

#: Points of the schedule space: one block, and several that shapes are no multiple of, with and without
#: hidden keys.
_BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "blocks": {"block_m": 16, "block_n": 16, "skip_hidden": True, "precision": "bf16x6"},
    "uneven blocks": {"block_m": 32, "block_n": 16, "skip_hidden": False, "num_stages": 1},
}


def _heads(
    *lead: int, queries: int = 21, keys: int = 35, depth: int = 12, width: int = 20,
    dtype: torch.dtype = torch.float32, groups: int = 1,
) -> Inputs:  # fmt: skip
    """Query, key and value."""
    shared = (*lead[:-1], lead[-1] // groups) if lead else ()
    shapes = ((*lead, queries, depth), (*shared, keys, depth), (*shared, keys, width))
    return lambda: [torch.randn(s).to(dtype) for s in shapes]


def _with(inputs: Inputs, more: Callable[[], torch.Tensor]) -> Inputs:
    return lambda: [*inputs(), more()]


def _blind() -> torch.Tensor:
    """A mask under which one query sees nothing and others little."""
    seen = torch.rand(21, 35) > 0.3
    seen[5], seen[20, :30] = False, False
    return seen


def _by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(hidden, -math.inf), -1) @ v


def _window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """A query sees itself and the nine before."""
    n = q.shape[-2]
    row, col = torch.arange(n)[:, None], torch.arange(n)[None, :]
    seen = (col <= row) & (row - col < 10)
    return torch.softmax((q @ k.mT * 0.3).masked_fill(~seen, -math.inf), -1) @ v


def _projected(x: torch.Tensor, w: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
    """A layer: heads are split after one projection and joined before another."""
    b, t, c = x.shape
    q, k, v = (part.view(b, t, 4, c // 4).transpose(1, 2) for part in (x @ w).split(c, -1))
    y = attend(q, k, v, is_causal=True)
    return y.transpose(1, 2).reshape(b, t, c) @ o


def _rotated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Queries are prepared on the way, and what comes out is used at once."""
    return torch.relu(attend(torch.tanh(q) * 2.0, k, v)) + 1.0


def _differing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (torch.softmax(q.float() @ k.float().mT, -1) @ v.float()).to(q.dtype)


#: What is computed, and on what.
ATTENTION: Mapping[str, tuple[Callable[..., Any], Inputs]] = {
    "attention": (attend, _heads(2, 4)),
    "causal attention": (lambda q, k, v: attend(q, k, v, is_causal=True), _heads(2, 2, queries=35)),
    "causal attention to more keys": (lambda q, k, v: attend(q, k, v, is_causal=True), _heads(1, 2)),
    "attention under a mask": (
        lambda q, k, v, m: attend(q, k, v, attn_mask=m), _with(_heads(2, 2), _blind)
    ),
    "attention under masks of each problem": (
        lambda q, k, v, m: attend(q, k, v, attn_mask=m),
        _with(_heads(2, 2), lambda: torch.rand(2, 1, 21, 35) > 0.3),
    ),
    "attention with a bias": (
        lambda q, k, v, m: attend(q, k, v, attn_mask=m, scale=0.3),
        _with(_heads(2, 2), lambda: torch.randn(2, 21, 35)),
    ),
    "grouped attention": (
        lambda q, k, v: attend(q, k, v, is_causal=True, enable_gqa=True), _heads(2, 4, queries=35, groups=2)
    ),
    "attention in half precision": (
        lambda q, k, v: attend(q, k, v, is_causal=True), _heads(2, 2, queries=35, dtype=torch.float16)
    ),
    "attention in bfloat16": (attend, _heads(2, 2, dtype=torch.bfloat16)),
    "grouped attention in half precision": (
        lambda q, k, v: attend(q, k, v, enable_gqa=True), _heads(1, 4, groups=4, dtype=torch.float16)
    ),
    "causal attention by hand": (_by_hand, _heads(2, 2, queries=35)),
    "attention by hand in half precision": (_by_hand, _heads(2, queries=35, dtype=torch.float16)),
    "attention by hand with float32 scores": (_differing, _heads(2, 2, dtype=torch.float16)),
    "attention of three dimensions": (lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, _heads(3)),
    "attention of two dimensions": (lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, _heads()),
    "biased attention by hand": (
        lambda q, k, v, b: torch.softmax(q @ k.mT * 0.3 + b, -1) @ v,
        _with(_heads(2, 2), lambda: torch.randn(2, 21, 35)),
    ),
    "attention in a window": (_window, _heads(2, 2, queries=35)),
    "attention of a projected layer": (
        _projected, lambda: [torch.randn(2, 35, 32), torch.randn(32, 96) / 6, torch.randn(32, 32) / 6]
    ),
    "attention to strided keys": (
        attend, lambda: [torch.randn(2, 35, 2, 12).transpose(1, 2) for _ in range(3)]
    ),
    "attention between other operators": (_rotated, _heads(2, 2)),
    "attention of wide heads": (attend, _heads(1, 2, depth=80, width=144)),
    "attention of one query": (attend, _heads(2, 3, queries=1)),
    "attention of single numbers": (attend, _heads(2, 3, depth=1, width=1)),
}  # fmt: skip


def points_of(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Points to run ``name`` at: one, and more where what blocks hold differs."""
    several = any(word in name for word in ("causal", "window", "under a mask", "attention in half", "wide"))
    return _BLOCKS if several else {"default": {}}
