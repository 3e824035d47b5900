import torch

from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"softmax_kernel": "ppi"})


def softmax(x):
    rows, columns = x.shape
    y = torch.empty_like(x)
    pointers = x.data_ptr(), y.data_ptr()
    kernels.softmax_kernel(*pointers, columns, grid=rows, block=256, shared=4 * columns)
    return y
