import torch

from kevolve_core.native import load_native

kernels = load_native("kernel.cu", {"matmul_kernel": "pppiii"})


def matmul(a, b):
    (rows, depth), columns = a.shape, b.shape[1]
    c = torch.empty(rows, columns, dtype=a.dtype, device=a.device)
    pointers = a.data_ptr(), b.data_ptr(), c.data_ptr()
    grid = (columns + 63) // 64, (rows + 63) // 64
    kernels.matmul_kernel(*pointers, rows, columns, depth, grid=grid, block=128)
    return c
