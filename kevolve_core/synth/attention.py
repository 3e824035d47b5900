"""Scaled dot-product attention from its parts: two products around a softmax, which fuse like any others."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["DECOMPOSITIONS", "attention"]


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, logarithms of the sums of exponentials) as the fused operator gives them.

    The product of queries and keys is scaled after it is taken, as the fused kernel does: scaling both
    factors by the root, as PyTorch's own decomposition does, doubles the rounding error. Half precision is
    widened, since the fused kernel keeps its scores in float32. Dropout is zero whenever this is captured.
    """
    del dropout_p
    dtype = query.dtype
    wide = torch.float32 if dtype in {torch.float16, torch.bfloat16} else dtype
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    groups = query.shape[-3] // key.shape[-3] if query.dim() > 2 and key.shape[-3] else 1
    if groups > 1:  # grouped queries share keys and values
        key = key.repeat_interleave(groups, -3)
        value = value.repeat_interleave(groups, -3)
    scores = torch.matmul(query.to(wide), key.to(wide).transpose(-2, -1)) * factor
    if is_causal:
        rows, columns = scores.shape[-2:]
        seen = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril()
        scores = torch.where(seen, scores, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.ops.aten._safe_softmax(scores, -1)  # zeros where a query sees nothing, as the kernel
    out = torch.matmul(weights, value.to(wide)).to(dtype)
    if out.dim() == 4:  # the fused kernel's layout: heads inside positions
        out = out.transpose(1, 2).contiguous().transpose(1, 2)
    return out, torch.logsumexp(scores, -1)


#: Operators that are captured as `attention`.
DECOMPOSITIONS: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default: attention,
}
