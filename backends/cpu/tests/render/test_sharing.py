"""Nests that are one computation on other tensors share a function."""

from __future__ import annotations

import ir_examples as ex
import pytest
import render_harness as harness
import torch

from kevolve_core.ir import Program, Store


def rows(n: int, c: int) -> Program:
    """Row ``n - 1 - t`` doubled into row ``t``, a step a row; then the same of another tensor."""
    steps = []
    for name in ("x", "z"):
        for t in range(n):
            value = ex.op("mul", ex.load(name, ex.i64(n - 1 - t), ex.ax("i")), ex.f32(2.0))
            store = Store("y" if name == "x" else "w", (ex.i64(t), ex.ax("i")), value)
            steps.append(harness.nest(f"{name}{t}", {"i": c}, 1, store))
    given = [ex.tensor("x", n, c), ex.tensor("z", n, c, at=1)]
    return harness.program(*steps, buffers=[*given, ex.out("y", n, c), ex.out("w", n, c)])


@pytest.mark.parametrize(("stream", "columns", "functions"), [(False, 40, 1), (True, 40, 2), (True, 48, 1)])
def test_equal_steps_share_a_function_that_is_right(stream: bool, columns: int, functions: int) -> None:
    # Of 40 float32 a row begins at a multiple of 32 bytes; where it begins decides how it may be stored.
    program, point = rows(3, columns), {"stream": stream}
    text = harness.render(program, point).files["kernel.cpp"]
    assert text.count("static void") == functions
    x, z = torch.randn(3, columns), torch.randn(3, columns)
    y, w = harness.run(program, [x, z], point)
    assert torch.equal(y, x.flip(0) * 2)
    assert torch.equal(w, z.flip(0) * 2)
