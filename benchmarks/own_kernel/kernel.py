"""The user's own Triton kernel of it: one program a row, the row in registers, written in an afternoon."""

import torch
import triton
import triton.language as tl


@triton.jit
def _kernel(x, gate, residual, weight, out, hidden, width, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    g = tl.load(gate + row * width + at, mask=inside, other=0.0)
    h = tl.load(x + row * width + at, mask=inside, other=0.0) * (g / (1.0 + tl.exp(-g)))
    h += tl.load(residual + row * width + at, mask=inside, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(h * h, 0) / width + 1e-6)
    tl.store(hidden + row * width + at, h, mask=inside)
    tl.store(out + row * width + at, h * scale * tl.load(weight + at, mask=inside, other=0.0), mask=inside)


def gated_residual_norm(x, gate, residual, weight):
    out, hidden = torch.empty_like(x), torch.empty_like(x)
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    _kernel[(x.numel() // width,)](x, gate, residual, weight, out, hidden, width, BLOCK=block, num_warps=4)
    return out, hidden
