import torch

from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"rms_norm_kernel": "pppi"})


def rms_norm(x, weight):
    rows, columns = x.shape
    y = torch.empty_like(x)
    pointers = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    kernels.rms_norm_kernel(*pointers, columns, grid=rows, block=256, shared=4 * columns)
    return y
