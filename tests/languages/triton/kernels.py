# ruff: noqa: N803  (names of constexprs are capitals in Triton)
"""Kernels written by hand in Triton, for tests of the recording driver."""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def scaled_kernel(x, out, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) * factor, mask=inside)


def scaled(x: torch.Tensor, factor: float = 2.0) -> torch.Tensor:
    out = torch.empty_like(x)
    n = x.numel()
    scaled_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n, factor, BLOCK=128, num_warps=2)
    return out


def scaled_twice(x: torch.Tensor) -> torch.Tensor:
    return scaled(scaled(x).relu())


tuned_kernel = triton.autotune(
    [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 256}, num_warps=8)], key=["n"]
)(scaled_kernel)


def tuned(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    n = x.numel()
    tuned_kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, out, n, 3.0)
    return out


@triton.jit
def copy_kernel(source, target, M: tl.constexpr, N: tl.constexpr):
    row, column = tl.program_id(0) * M, tl.program_id(1) * N
    target.store([row, column], source.load([row, column]))


def copied(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device="cuda")
    grid = (triton.cdiv(x.shape[0], 16), triton.cdiv(x.shape[1], 32))
    copy_kernel[grid](
        TensorDescriptor.from_tensor(x, [16, 32]), TensorDescriptor.from_tensor(out, [16, 32]), M=16, N=32
    )
    return out


def persistent(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x, device="cuda")
    programs = torch.cuda.get_device_properties(0).multi_processor_count
    scaled_kernel[(programs,)](x, out, x.numel(), 1.0, BLOCK=32)
    return out


@triton.jit
def wrong_kernel(x, out):
    tl.store(out, tl.load(x) + tl.arange(0, 3))


def wrong(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    wrong_kernel[(1,)](x, out)
    return out
