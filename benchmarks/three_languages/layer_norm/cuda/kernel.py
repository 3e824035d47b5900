import torch

from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"layer_norm_kernel": "ppppi"})


def layer_norm(x, weight, bias):
    rows, columns = x.shape
    y = torch.empty_like(x)
    pointers = x.data_ptr(), weight.data_ptr(), bias.data_ptr(), y.data_ptr()
    kernels.layer_norm_kernel(*pointers, columns, grid=rows, block=256, shared=4 * columns)
    return y
