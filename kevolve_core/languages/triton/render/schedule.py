"""What a schedule's choices mean for one nest, made legal for the nest's own extents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from kevolve_core.languages.triton.render.tiling import Tiling
from kevolve_core.languages.triton.render.words import power_of_two

__all__ = ["MAX_TILE", "NestSchedule", "resolve"]

MAX_TILE = 1 << 17  # elements of a tile; Triton allows 2**20, which no register file holds


@frozen
class NestSchedule:
    """Tile and launch of a nest.

    Args:
        rows: rows a program takes at a time, a power of two.
        cols: columns a step takes, a power of two; where it covers them all there is no loop.
        num_warps: warps a program.
        num_stages: depth of software pipelining.
        programs: programs of a persistent grid, each taking rows in turn; 0 for one program a tile.
        accumulate: ``fp32`` or ``fp64``: type of float32 sums.
        spread: programs a row, that divide among them the columns of walks which only store; each repeats the
            reductions before.
        online: take a maximum and the sum of exponentials by it in one walk, and a mean and the squares about
            it.
        held: where a row is longer than ``cols``, keep all of it in registers, ``cols`` at a time and
            without a loop, so that later walks read nothing again. Rows need not be a power of two; a short
            one is unrolled with ``cols`` of 1, so that the lanes are rows'.
        together: neighbouring points of the last row axis that a program computes at once, so that they share
            what they load (`kevolve_core.languages.windows.jammed`).
    """

    rows: int = 1
    cols: int = 1024
    num_warps: int = 4
    num_stages: int = 2
    programs: int = 0
    accumulate: str = "fp32"
    spread: int = 1
    online: bool = True
    held: bool = False
    together: int = 1


#: Choices that need no cutting.
_PLAIN = ("num_warps", "num_stages", "programs", "accumulate", "spread", "online", "held", "together")


def resolve(tiling: Tiling, point: Mapping[str, Any], default: NestSchedule) -> NestSchedule:
    """``point`` over ``default``, cut to what ``tiling`` has: a genome of another case stays legal."""
    values = {k: point.get(k, getattr(default, k)) for k in _PLAIN}
    rows = min(int(point.get("rows", default.rows)), power_of_two(tiling.row_count))
    cols = min(int(point.get("cols", default.cols)) or MAX_TILE, power_of_two(tiling.col_count))
    while rows * cols > MAX_TILE and rows > 1:
        rows //= 2
    while rows * cols > MAX_TILE:
        cols //= 2
    return NestSchedule(rows=rows, cols=cols, **values)
