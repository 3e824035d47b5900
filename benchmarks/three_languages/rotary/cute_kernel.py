"""A thread rotates one vector of the first half of a head's vector with its partner."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.runtime import from_dlpack

THREADS = 256


@cute.kernel
def kernel(x: cute.Tensor, cos: cute.Tensor, sin: cute.Tensor, y: cute.Tensor):
    """``x``, ``y``: (head, token, half, vector, element); ``cos``, ``sin``: (token, vector, element)."""
    i = cute.arch.block_idx()[0] * THREADS + cute.arch.thread_idx()[0]
    heads, tokens, _, vectors, width = x.shape
    if i < heads * tokens * vectors:
        head, token, vector = i // (tokens * vectors), i // vectors % tokens, i % vectors
        first, second, c, s = [cute.make_rmem_tensor(width, cutlass.Float32) for _ in range(4)]
        cute.autovec_copy(x[(head, token, 0, vector, None)], first)
        cute.autovec_copy(x[(head, token, 1, vector, None)], second)
        cute.autovec_copy(cos[(token, vector, None)], c)
        cute.autovec_copy(sin[(token, vector, None)], s)
        for j in cutlass.range_constexpr(width):
            a, b = first[j], second[j]
            first[j] = a * c[j] - b * s[j]
            second[j] = b * c[j] + a * s[j]
        cute.autovec_copy(first, y[(head, token, 0, vector, None)])
        cute.autovec_copy(second, y[(head, token, 1, vector, None)])


@cute.jit
def launch(x: cute.Tensor, cos: cute.Tensor, sin: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
    heads, tokens, size = x.shape
    half = size // 2
    width = 4 if half % 4 == 0 else 1
    layout = cute.make_layout(
        (heads, tokens, 2, half // width, width), stride=(tokens * size, size, half, width, 1)
    )
    x, y = cute.make_tensor(x.iterator, layout), cute.make_tensor(y.iterator, layout)
    angles = cute.make_layout((tokens, half // width, width), stride=(half, width, 1))
    cos, sin = cute.make_tensor(cos.iterator, angles), cute.make_tensor(sin.iterator, angles)
    blocks = cute.ceil_div(heads * tokens * half // width, THREADS)
    kernel(x, cos, sin, y).launch(grid=(blocks, 1, 1), block=(THREADS, 1, 1), stream=stream)


compiled = {}


def rotary(x, cos, sin):
    y = torch.empty_like(x)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (x, cos, sin, y)]
    if x.shape not in compiled:
        compiled[x.shape] = cute.compile(launch, *tensors, stream)
    compiled[x.shape](*tensors, stream)
    return y
