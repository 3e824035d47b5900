"""Tiles of 64 x 64 x 32 by tensor cores."""

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(
    a, b, c, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,  # noqa: N803
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        left_inside = (row[:, None] < rows) & (k[None, :] < depth)
        right_inside = (k[:, None] < depth) & (column[None, :] < columns)
        left = tl.load(a + row[:, None] * depth + k[None, :], mask=left_inside, other=0.0)
        right = tl.load(b + k[:, None] * columns + column[None, :], mask=right_inside, other=0.0)
        total = tl.dot(left, right, total)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(c + row[:, None] * columns + column[None, :], total.to(tl.bfloat16), mask=inside)


def matmul(a, b):
    (rows, depth), columns = a.shape, b.shape[1]
    c = torch.empty(rows, columns, dtype=a.dtype, device=a.device)
    grid = triton.cdiv(columns, 64), triton.cdiv(rows, 64)
    kernel[grid](
        a, b, c, rows, columns, depth, ROWS=64, COLUMNS=64, DEPTH=32, num_warps=4, num_stages=4
    )  # fmt: skip
    return c
