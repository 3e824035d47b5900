"""Tiles of 64 x 64 x 32 in shared memory, ldmatrix, four warps of mma.m16n8k16; bias and ReLU on the sums."""

import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass.cute.nvgpu import warp
from cutlass.cute.runtime import from_dlpack

THREADS, ROWS, COLUMNS, DEPTH = 128, 64, 64, 32


@cute.jit
def stage(source: cute.Tensor, shared: cute.Tensor, first_row, first_vector):
    """A tile of ``source``, zeros beyond its ends. Both: (row, vector in the row, element in the vector)."""
    rows, vectors, width = shared.shape
    for i in cutlass.range_constexpr(rows * vectors // THREADS):
        at = i * THREADS + cute.arch.thread_idx()[0]
        row, vector = at // vectors, at % vectors
        held = cute.make_rmem_tensor(width, source.element_type)
        held.fill(0.0)
        if first_row + row < source.shape[0] and first_vector + vector < source.shape[1]:
            cute.autovec_copy(source[(first_row + row, first_vector + vector, None)], held)
        cute.autovec_copy(held, shared[(row, vector, None)])


@cute.kernel
def kernel(a: cute.Tensor, b: cute.Tensor, bias: cute.Tensor, c: cute.Tensor, mma: cute.TiledMma):
    """``a``: (m, vector of k, element); ``b``: (k, vector of n, element); ``c``: (m, n)."""
    thread = cute.arch.thread_idx()[0]
    column, row = cute.arch.block_idx()[0] * COLUMNS, cute.arch.block_idx()[1] * ROWS
    a_width, b_width, depth = a.shape[2], b.shape[2], b.shape[0]
    # Lines are 16 bytes longer than their elements: ldmatrix reads eight of them from different banks.
    a_line, b_line = DEPTH + 8, COLUMNS + 8
    a_memory = cute.arch.alloc_smem(cutlass.BFloat16, ROWS * a_line, alignment=16)
    b_memory = cute.arch.alloc_smem(cutlass.BFloat16, DEPTH * b_line, alignment=16)
    a_vectors = cute.make_layout((ROWS, DEPTH // a_width, a_width), stride=(a_line, a_width, 1))
    b_vectors = cute.make_layout((DEPTH, COLUMNS // b_width, b_width), stride=(b_line, b_width, 1))
    a_staged, b_staged = cute.make_tensor(a_memory, a_vectors), cute.make_tensor(b_memory, b_vectors)
    a_shared = cute.make_tensor(a_memory, cute.make_layout((ROWS, DEPTH), stride=(a_line, 1)))
    b_shared = cute.make_tensor(b_memory, cute.make_layout((COLUMNS, DEPTH), stride=(1, b_line)))

    own = mma.get_slice(thread)
    a_parts = mma.make_fragment_A(own.partition_A(a_shared))
    b_parts = mma.make_fragment_B(own.partition_B(b_shared))
    acc = cute.make_rmem_tensor(mma.partition_shape_C((ROWS, COLUMNS)), cutlass.Float32)
    acc.fill(0.0)
    a_atom = cute.make_copy_atom(warp.LdMatrix8x8x16bOp(False, 4), cutlass.BFloat16)
    b_atom = cute.make_copy_atom(warp.LdMatrix8x8x16bOp(True, 4), cutlass.BFloat16)
    a_copy, b_copy = cute.make_tiled_copy_A(a_atom, mma), cute.make_tiled_copy_B(b_atom, mma)
    a_own, b_own = a_copy.get_slice(thread), b_copy.get_slice(thread)
    for k in cutlass.range(0, depth, DEPTH, unroll=1):
        stage(a, a_staged, row, k // a_width)
        stage(b, b_staged, k, column // b_width)
        cute.arch.sync_threads()
        cute.copy(a_copy, a_own.partition_S(a_shared), a_own.retile(a_parts))
        cute.copy(b_copy, b_own.partition_S(b_shared), b_own.retile(b_parts))
        cute.gemm(mma, acc, a_parts, b_parts, acc)
        cute.arch.sync_threads()
    at = own.partition_C(cute.make_identity_tensor((ROWS, COLUMNS)))
    for i in cutlass.range_constexpr(cute.size(acc)):
        m, n = at[i]
        if row + m < c.shape[0] and column + n < c.shape[1]:
            value = acc[i] + bias[column + n].to(cutlass.Float32)
            # Of NaN, NaN: a comparison with it is false.
            c[(row + m, column + n)] = cutlass.BFloat16(
                cutlass.select_(value < 0.0, cutlass.Float32(0.0), value)
            )


@cute.jit
def launch(a: cute.Tensor, b: cute.Tensor, bias: cute.Tensor, c: cute.Tensor, stream: cuda.CUstream):
    (rows, depth), columns = a.shape, b.shape[1]
    a_width, b_width = 8 if depth % 8 == 0 else 1, 8 if columns % 8 == 0 else 1
    a_vectors = cute.make_layout((rows, depth // a_width, a_width), stride=(depth, a_width, 1))
    b_vectors = cute.make_layout((depth, columns // b_width, b_width), stride=(columns, b_width, 1))
    a, b = cute.make_tensor(a.iterator, a_vectors), cute.make_tensor(b.iterator, b_vectors)
    op = warp.MmaF16BF16Op(cutlass.BFloat16, cutlass.Float32, (16, 8, 16))
    mma = cute.make_tiled_mma(op, cute.make_layout((2, 2, 1)), permutation_mnk=(32, 32, 16))
    grid = (cute.ceil_div(columns, COLUMNS), cute.ceil_div(rows, ROWS), 1)
    kernel(a, b, bias, c, mma).launch(grid=grid, block=(THREADS, 1, 1), stream=stream)


compiled = {}


def matmul_bias_relu(a, b, bias):
    c = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype, device=a.device)
    stream = cuda.CUstream(torch.cuda.current_stream().cuda_stream)
    tensors = [from_dlpack(t, assumed_align=16) for t in (a, b, bias, c)]
    key = a.shape, b.shape
    if key not in compiled:
        compiled[key] = cute.compile(launch, *tensors, stream)
    compiled[key](*tensors, stream)
    return c
