"""Sixteen tokens of a head a program; both halves of their vectors."""

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x, cos, sin, y, tokens, half, TOKENS: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    inside = (token < tokens) & (at < half)
    c = tl.load(cos + token * half + at, mask=inside)
    s = tl.load(sin + token * half + at, mask=inside)
    first = (tl.program_id(1).to(tl.int64) * tokens + token) * 2 * half + at
    a = tl.load(x + first, mask=inside)
    b = tl.load(x + first + half, mask=inside)
    tl.store(y + first, a * c - b * s, mask=inside)
    tl.store(y + first + half, b * c + a * s, mask=inside)


def rotary(x, cos, sin):
    y = torch.empty_like(x)
    heads, tokens, size = x.shape
    block = triton.next_power_of_2(size // 2)
    grid = triton.cdiv(tokens, 16), heads
    kernel[grid](x, cos, sin, y, tokens, size // 2, TOKENS=16, BLOCK=block, num_warps=4)
    return y
