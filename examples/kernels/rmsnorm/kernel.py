"""RMS normalisation of the rows of a float32 matrix, written by hand in C++ (rmsnorm.cpp)."""

import torch

from kevolve_core.native import load_native

_native = load_native("rmsnorm.cpp", {"rmsnorm_f32": "ppplld"})


def rmsnorm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    width = x.shape[-1]
    _native.rmsnorm_f32(
        x.data_ptr(), weight.contiguous().data_ptr(), out.data_ptr(), x.numel() // width, width, eps
    )
    return out
