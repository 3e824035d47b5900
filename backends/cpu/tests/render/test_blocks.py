"""Operands that lie across the vector axis: blocks of them are transposed in registers."""

from __future__ import annotations

import ir_examples as ex
import pytest
import render_harness as harness
import torch

from kevolve_core.ir import Expr, Program, Store
from kevolve_cpu.spaces import schedule_space

KINDS = ("float32", "float64", "float16", "bfloat16", "uint8", "int64", "bool")
POINT = {"vector_axis": "j", "tile": 64, "parallel": "none", "transpose": True}


def copies(rows: int, columns: int, kinds: tuple[str, ...] = KINDS) -> Program:
    """``y[i, j] = x[j, i]`` for a pair of tensors of each of ``kinds``."""
    steps, buffers = [], []
    for k, kind in enumerate(kinds):
        copy = Store(f"y{k}", (ex.ax("i"), ex.ax("j")), ex.load(f"x{k}", ex.ax("j"), ex.ax("i"), dtype=kind))
        steps.append(harness.nest(f"copy{k}", {"i": columns, "j": rows}, 2, copy))
        buffers += [
            ex.tensor(f"x{k}", rows, columns, dtype=kind, at=k),
            ex.out(f"y{k}", columns, rows, dtype=kind),
        ]
    return harness.program(*steps, buffers=buffers)


def fused(value: Expr, rows: int, columns: int) -> Program:
    """``y[i, j] = value`` of x and w (rows, columns), z like y, and a vector b over columns."""
    nest = harness.nest("f", {"i": columns, "j": rows}, 2, Store("y", (ex.ax("i"), ex.ax("j")), value))
    buffers = [
        ex.tensor("x", rows, columns), ex.tensor("w", rows, columns, at=1),
        ex.tensor("z", columns, rows, at=2), ex.tensor("b", columns, at=3), ex.out("y", columns, rows),
    ]  # fmt: skip
    return harness.program(nest, buffers=buffers)


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize(("rows", "columns"), [(128, 64), (133, 77), (64, 40), (75, 32), (16, 16)])
def test_every_type_is_transposed(rows: int, columns: int, lanes: int) -> None:
    torch.manual_seed(0)
    inputs = [(torch.randn(rows, columns) * 50).abs().to(getattr(torch, kind)) for kind in KINDS]
    p = copies(rows, columns)
    point = {**POINT, "lanes": lanes}
    assert harness.render(p, point).files["kernel.cpp"].count("    transpose_block(x") == len(KINDS)
    for x, y in zip(inputs, harness.run(p, inputs, point), strict=True):
        assert torch.equal(y, x.t())


@pytest.mark.parametrize(("rows", "columns"), [(128, 64), (133, 77)])
def test_other_operands_are_read_where_they_lie(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    across = [ex.load(n, ex.ax("j"), ex.ax("i")) for n in ("x", "w")]
    value = ex.op("mul", ex.op("add", *across), ex.load("z", ex.ax("i"), ex.ax("j")))
    value = ex.op("add", ex.op("max", value, across[0]), ex.load("b", ex.ax("i")))
    x, w, z, b = torch.randn(2, rows, columns), None, torch.randn(columns, rows), torch.randn(columns)
    x, w = x[0].clone(), x[1].clone()
    expected = torch.maximum((x + w).t() * z, x.t()) + b[:, None]
    got = harness.run(fused(value, rows, columns), [x, w, z, b], POINT)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_a_batch_is_transposed_matrix_by_matrix() -> None:
    axes = (ex.ax("b"), ex.ax("i"), ex.ax("j"))
    copy = Store("y", axes, ex.load("x", ex.ax("b"), ex.ax("j"), ex.ax("i")))
    p = harness.program(
        harness.nest("f", {"b": 3, "i": 33, "j": 70}, 3, copy),
        buffers=[ex.tensor("x", 3, 70, 33), ex.out("y", 3, 33, 70)],
    )
    x = torch.randn(3, 70, 33)
    assert torch.equal(harness.run(p, [x], POINT), x.transpose(1, 2))


def test_blocks_are_the_default_where_an_operand_lies_across() -> None:
    plain = fused(ex.load("z", ex.ax("i"), ex.ax("j")), 128, 64)
    found = [schedule_space(p.steps[0], None).default() for p in (copies(128, 64), plain)]
    assert [point.get("transpose") for point in found] == [True, None]


@pytest.mark.parametrize(("rows", "columns"), [(9, 500), (500, 9)])
def test_less_than_a_block_is_gathered(rows: int, columns: int) -> None:
    p = copies(rows, columns, ("float32",))
    assert "transpose_block" not in harness.render(p, {**POINT, "lanes": 16}).files["kernel.cpp"]


def test_blocks_can_be_turned_off() -> None:
    p = copies(128, 64, ("float32",))
    assert "transpose_block" not in harness.render(p, {**POINT, "transpose": False}).files["kernel.cpp"]
