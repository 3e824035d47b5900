import torch

from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"scale_bias_kernel": "pppfi"})


def scale_bias(x, bias, scale):
    y = torch.empty_like(x)
    rows, columns = x.shape
    pointers = x.data_ptr(), bias.data_ptr(), y.data_ptr()
    kernels.scale_bias_kernel(*pointers, scale, columns, grid=((columns + 1023) // 1024, rows), block=256)
    return y
