"""Attention taken apart: causal, masked, grouped, against PyTorch's fused operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from kevolve_core.ir import LibraryCall

MASK = torch.rand(5, 7) > 0.3
MASK[2] = False  # a query that may see nothing gives zeros
CASES: dict[str, Callable[..., Any]] = {
    "plain": lambda q, k, v: attend(q, k, v),
    "causal": lambda q, k, v: attend(q, k[:, :, :5], v[:, :, :5], is_causal=True),
    "boolean mask": lambda q, k, v: attend(q, k, v, attn_mask=MASK),
    "additive mask": lambda q, k, v: attend(q, k, v, attn_mask=torch.where(MASK, 0.0, -2.0)),
    "scaled": lambda q, k, v: attend(q, k, v, scale=0.3),
    "viewed after": lambda q, k, v: attend(q, k, v).transpose(1, 2).reshape(2, 5, 24),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(check: Callable[..., Any], name: str) -> None:
    program = check(CASES[name], [torch.randn(2, 4, 5, 6), torch.randn(2, 4, 7, 6), torch.randn(2, 4, 7, 6)])
    assert {"aten::bmm"} == {s.op for s in program.steps if isinstance(s, LibraryCall)}


def test_grouped_queries(check: Callable[..., Any]) -> None:
    k = torch.randn(2, 2, 7, 6)
    check(lambda q, k, v: attend(q, k, v, enable_gqa=True), [torch.randn(2, 4, 5, 6), k, torch.randn_like(k)])


def test_from_its_parts(check: Callable[..., Any]) -> None:
    def parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)
        return torch.softmax(scores, -1) @ v

    check(parts, [torch.randn(2, 4, 5, 6) for _ in range(3)])
