"""One program a row, the row in registers; exponentials by ``ex2.approx.ftz.f32`` as inline PTX."""

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(x, y, columns, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    value = tl.load(x + row * columns + at, mask=inside, other=-float("inf"))
    power = tl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [(value - tl.max(value, 0)) * 1.4426950408889634],
        dtype=tl.float32, is_pure=True, pack=1,
    )  # fmt: skip
    tl.store(y + row * columns + at, tl.div_rn(power, tl.sum(power, 0)), mask=inside)


def softmax(x):
    y = torch.empty_like(x)
    rows, columns = x.shape
    kernel[(rows,)](x, y, columns, BLOCK=triton.next_power_of_2(columns), num_warps=8)
    return y
