"""One vector of four elements a thread (one element where the length is no multiple of four)."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

THREADS = 256


@cute.kernel
def kernel(gate: cute.Tensor, up: cute.Tensor, y: cute.Tensor):
    """All three: (vector, element in the vector)."""
    i = cute.arch.block_idx()[0] * THREADS + cute.arch.thread_idx()[0]
    if i < y.shape[0]:
        g = cute.make_rmem_tensor(y.shape[1], cutlass.Float32)
        u = cute.make_rmem_tensor(y.shape[1], cutlass.Float32)
        cute.autovec_copy(gate[(i, None)], g)
        cute.autovec_copy(up[(i, None)], u)
        for j in cutlass.range_constexpr(y.shape[1]):
            u[j] = g[j] / (1.0 + cute.math.exp(-g[j])) * u[j]
        cute.autovec_copy(u, y[(i, None)])


@cute.jit
def launch(gate: cute.Tensor, up: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    (size,) = y.shape
    width = 4 if size % 4 == 0 else 1
    layout = cute.make_layout((size // width, width), stride=(width, 1))
    gate, up, y = [cute.make_tensor(t.iterator, layout) for t in (gate, up, y)]
    blocks = cute.ceil_div(size // width, THREADS)
    kernel(gate, up, y).launch(grid=(blocks, 1, 1), block=(THREADS, 1, 1), stream=stream)


compiled = {}


def swiglu(gate, up):
    y = torch.empty_like(gate)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (gate, up, y)]
    if gate.shape not in compiled:
        compiled[gate.shape] = cute.compile(launch, *tensors, stream)
    compiled[gate.shape](*tensors, stream)
    return y
