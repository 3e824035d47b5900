"""One block a row, four neighbours of it at a time a thread."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

THREADS = 256


@cute.jit
def block_sum(value, shared: cute.Tensor):
    """The sum of ``value`` over the block's threads."""
    value = cute.arch.warp_reduction_sum(value)
    if cute.arch.lane_idx() == 0:
        shared[cute.arch.warp_idx()] = value
    cute.arch.sync_threads()
    total = shared[0]
    for warp in cutlass.range_constexpr(1, THREADS // 32):
        total += shared[warp]
    cute.arch.sync_threads()
    return total


@cute.kernel
def kernel(x: cute.Tensor, y: cute.Tensor):
    """``x``: (row, vector in the row, element in the vector)."""
    thread, row = cute.arch.thread_idx()[0], cute.arch.block_idx()[0]
    _, vectors, width = x.shape
    shared = cute.make_tensor(cute.arch.alloc_smem(cutlass.Float32, 8), cute.make_layout(THREADS // 32))
    chunks = cute.ceil_div(vectors, THREADS)
    own = cute.make_rmem_tensor(cute.make_layout((width, chunks)), cutlass.Float32)
    own.fill(0.0)
    for i in cutlass.range_constexpr(chunks):
        if i * THREADS + thread < vectors:
            cute.autovec_copy(x[(row, i * THREADS + thread, None)], own[(None, i)])
    total = cutlass.Float32(0.0)
    for i in cutlass.range_constexpr(cute.size(own)):
        total += own[i]
    total = block_sum(total, shared)
    if thread == 0:
        y[row] = total


@cute.jit
def launch(x: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    rows, columns = x.shape
    width = 4 if columns % 4 == 0 else 1
    layout = cute.make_layout((rows, columns // width, width), stride=(columns, width, 1))
    x = cute.make_tensor(x.iterator, layout)
    kernel(x, y).launch(grid=(rows, 1, 1), block=(THREADS, 1, 1), stream=stream)


compiled = {}


def row_sum(x):
    y = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (x, y)]
    if x.shape not in compiled:
        compiled[x.shape] = cute.compile(launch, *tensors, stream)
    compiled[x.shape](*tensors, stream)
    return y
