"""One vector of four neighbours of a row a thread (one element where rows are no multiple of four)."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

THREADS = 256


@cute.kernel
def kernel(x: cute.Tensor, bias: cute.Tensor, y: cute.Tensor, scale: cutlass.Float32):
    """``x`` and ``y``: (row, vector in the row, element in the vector); ``bias``: the last two."""
    i = cute.arch.block_idx()[0] * THREADS + cute.arch.thread_idx()[0]
    rows, vectors, width = x.shape
    if i < rows * vectors:
        row, vector = i // vectors, i % vectors
        own = cute.make_rmem_tensor(width, cutlass.Float32)
        more = cute.make_rmem_tensor(width, cutlass.Float32)
        cute.autovec_copy(x[(row, vector, None)], own)
        cute.autovec_copy(bias[(vector, None)], more)
        for j in cutlass.range_constexpr(width):
            own[j] = own[j] * scale + more[j]
        cute.autovec_copy(own, y[(row, vector, None)])


@cute.jit
def launch(x: cute.Tensor, bias: cute.Tensor, y: cute.Tensor, scale: cutlass.Float32, stream: cuda.CUstream):
    rows, columns = x.shape
    width = 4 if columns % 4 == 0 else 1
    layout = cute.make_layout((rows, columns // width, width), stride=(columns, width, 1))
    x, y = cute.make_tensor(x.iterator, layout), cute.make_tensor(y.iterator, layout)
    bias = cute.make_tensor(bias.iterator, cute.make_layout((columns // width, width), stride=(width, 1)))
    blocks = cute.ceil_div(rows * columns // width, THREADS)
    kernel(x, bias, y, scale).launch(grid=(blocks, 1, 1), block=(THREADS, 1, 1), stream=stream)


compiled = {}


def scale_bias(x, bias, scale):
    y = torch.empty_like(x)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (x, bias, y)]
    if x.shape not in compiled:
        compiled[x.shape] = cute.compile(launch, *tensors, scale, stream)
    compiled[x.shape](*tensors, scale, stream)
    return y
