"""One block a row of logits, the row in registers."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

THREADS = 256


def larger(a, b):
    return cute.arch.fmax(a, b)


def plus(a, b):
    return a + b


@cute.jit
def block_reduce(value, combine: cutlass.Constexpr, shared: cute.Tensor):
    """``value`` of all threads, combined."""
    value = cute.arch.warp_reduction(value, combine)
    if cute.arch.lane_idx() == 0:
        shared[cute.arch.warp_idx()] = value
    cute.arch.sync_threads()
    total = shared[0]
    for warp in cutlass.range_constexpr(1, THREADS // 32):
        total = combine(total, shared[warp])
    cute.arch.sync_threads()
    return total


@cute.kernel
def kernel(x: cute.Tensor, target: cute.Tensor, y: cute.Tensor):
    """``x``: (row, vector in the row, element in the vector)."""
    thread, row = cute.arch.thread_idx()[0], cute.arch.block_idx()[0]
    _, vectors, width = x.shape
    shared = cute.make_tensor(cute.arch.alloc_smem(cutlass.Float32, 8), cute.make_layout(THREADS // 32))
    chunks = cute.ceil_div(vectors, THREADS)
    own = cute.make_rmem_tensor(cute.make_layout((width, chunks)), cutlass.Float32)
    own.fill(-cutlass.Float32.inf)
    for i in cutlass.range_constexpr(chunks):
        if i * THREADS + thread < vectors:
            cute.autovec_copy(x[(row, i * THREADS + thread, None)], own[(None, i)])
    top = -cutlass.Float32.inf
    for i in cutlass.range_constexpr(cute.size(own)):
        top = larger(top, own[i])
    top = block_reduce(top, larger, shared)
    total = cutlass.Float32(0.0)
    for i in cutlass.range_constexpr(cute.size(own)):
        total += cute.math.exp(own[i] - top)
    total = block_reduce(total, plus, shared)
    if thread == 0:
        wanted = cutlass.Int32(target[row])
        y[row] = cute.math.log(total) - (x[(row, wanted // width, wanted % width)] - top)


@cute.jit
def launch(x: cute.Tensor, target: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    rows, columns = x.shape
    width = 4 if columns % 4 == 0 else 1
    layout = cute.make_layout((rows, columns // width, width), stride=(columns, width, 1))
    x = cute.make_tensor(x.iterator, layout)
    kernel(x, target, y).launch(grid=(rows, 1, 1), block=(THREADS, 1, 1), stream=stream)


compiled = {}


def cross_entropy(x, target):
    y = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (x, target, y)]
    if x.shape not in compiled:
        compiled[x.shape] = cute.compile(launch, *tensors, stream)
    compiled[x.shape](*tensors, stream)
    return y
