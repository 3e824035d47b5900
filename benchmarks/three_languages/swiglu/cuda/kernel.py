import torch

from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"swiglu_kernel": "pppi"})


def swiglu(gate, up):
    y = torch.empty_like(gate)
    size = y.numel()
    pointers = gate.data_ptr(), up.data_ptr(), y.data_ptr()
    kernels.swiglu_kernel(*pointers, size, grid=(size + 1023) // 1024, block=256)
    return y
