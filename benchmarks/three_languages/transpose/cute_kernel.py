"""Tiles of 32 x 32 through shared memory, both sides in whole lines."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

TILE, LINES = 32, 8


@cute.kernel
def kernel(x: cute.Tensor, y: cute.Tensor):
    """``x``: (row, column); ``y``: (column, row)."""
    across, down, _ = cute.arch.thread_idx()
    column, row = cute.arch.block_idx()[0] * TILE, cute.arch.block_idx()[1] * TILE
    rows, columns = x.shape
    # One more column than there are: the threads of a warp read down a column from different banks.
    layout = cute.make_layout((TILE, TILE), stride=(TILE + 1, 1))
    tile = cute.make_tensor(cute.arch.alloc_smem(cutlass.Float32, TILE * (TILE + 1)), layout)
    for i in cutlass.range_constexpr(0, TILE, LINES):
        if row + down + i < rows and column + across < columns:
            tile[(down + i, across)] = x[(row + down + i, column + across)]
    cute.arch.sync_threads()
    for i in cutlass.range_constexpr(0, TILE, LINES):
        if column + down + i < columns and row + across < rows:
            y[(column + down + i, row + across)] = tile[(across, down + i)]


@cute.jit
def launch(x: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    rows, columns = x.shape
    grid = (cute.ceil_div(columns, TILE), cute.ceil_div(rows, TILE), 1)
    kernel(x, y).launch(grid=grid, block=(TILE, LINES, 1), stream=stream)


compiled = {}


def transpose(x):
    y = torch.empty(x.shape[1], x.shape[0], dtype=x.dtype, device=x.device)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (x, y)]
    if x.shape not in compiled:
        compiled[x.shape] = cute.compile(launch, *tensors, stream)
    compiled[x.shape](*tensors, stream)
    return y
