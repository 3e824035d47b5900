"""1024 elements a program."""

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x, y, size, BLOCK: tl.constexpr):  # noqa: N803
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    v = tl.load(x + at, mask=inside)
    inner = 0.7978845608028654 * (v + 0.044715 * v * v * v)
    # 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u))
    tl.store(y + at, tl.div_rn(v, 1.0 + tl.exp(-2.0 * inner)), mask=inside)


def gelu(x):
    y = torch.empty_like(x)
    kernel[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), BLOCK=1024, num_warps=4)
    return y
