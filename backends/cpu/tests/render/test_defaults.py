"""Default points: what the first draft of a nest is printed with."""

from __future__ import annotations

import ir_examples as ex
import pytest
import render_harness as harness
import torch

from kevolve_core.ir import Program, Store
from kevolve_cpu.render import CppRenderer
from kevolve_cpu.spaces import schedule_space


def default(p: Program) -> dict[str, object]:
    return schedule_space(p.steps[0], None).default()


def source(p: Program, **point: object) -> str:
    return CppRenderer().render(harness.spec(), [p], {p.steps[0].name: point}).files["kernel.cpp"]


def test_a_64_bit_value_a_row_leaves_vectors_wide() -> None:
    assert default(ex.cross_entropy(64, 4096))["lanes"] == 16


def test_a_kept_value_fits_the_cache() -> None:
    assert default(ex.softmax_dim1(4, 64, 1024))["keep"] is True
    assert default(ex.softmax_dim1(4, 1024, 1024))["keep"] is False


def test_the_heavy_pass_fetches_the_next_row() -> None:
    passes = source(ex.softmax(64, 1024), prefetch="heavy").split("const auto at")
    assert ["__builtin_prefetch" in p for p in passes[1:]] == [False, True, False]


def test_the_last_pass_fetches_the_next_row_when_told() -> None:
    passes = source(ex.softmax(64, 1024), prefetch="last").split("const auto at")
    assert ["__builtin_prefetch" in p for p in passes[1:]] == [False, False, True]


def test_no_pass_fetches_without_prefetch() -> None:
    assert "__builtin_prefetch" not in source(ex.softmax(64, 1024), prefetch="none")


def transposed(rows: int, columns: int) -> Program:
    """``y[i, j] = x[j, i]``."""
    copy = Store("y", (ex.ax("i"), ex.ax("j")), ex.load("x", ex.ax("j"), ex.ax("i")))
    nest = harness.nest("transposed", {"i": columns, "j": rows}, 2, copy)
    return harness.program(nest, buffers=[ex.tensor("x", rows, columns), ex.out("y", columns, rows)])


def test_a_transposed_copy_stores_whole_lines_and_reads_in_tiles() -> None:
    p = transposed(4096, 1024)
    point = default(p)
    assert (point["vector_axis"], point["tile"]) == ("j", 64)
    loops = [line.strip() for line in source(p).splitlines() if line.strip().startswith("for (long")]
    assert [line.split(";")[0] for line in loops[:2]] == ["for (long j_first = 0", "for (long i_first = 0"]


@pytest.mark.parametrize("tile", [64, 256])
def test_a_transposed_copy_of_odd_sizes_is_right(tile: int) -> None:
    x = torch.randn(301, 77)
    point = {"vector_axis": "j", "tile": tile}
    assert torch.equal(harness.run(transposed(301, 77), [x], point), x.t())
