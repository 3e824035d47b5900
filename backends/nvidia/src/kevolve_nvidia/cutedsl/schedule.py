"""Schedules of matrix products in CuTe DSL, and their space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from kevolve_core.ir import LibraryCall, Load, itemsize, walk
from kevolve_core.space import Constraint, Parameter, Space

__all__ = ["PAIRS", "ProductSchedule", "default_product", "is_matrix_product", "product_space", "schedule_of"]

#: Scheme -> which parts of the left and right operand are multiplied; the first pair is the largest. Three
#: parts of 8 bits hold a float32's 24: the six products of the order 2**-16 and above reach its accuracy,
#: three do not.
PAIRS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "bf16x6": ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)),
    "bf16x3": ((0, 0), (0, 1), (1, 0)),
}
_SUMS_PER_THREAD = 192  # of 232 registers that a multiplying thread has; addresses need the rest; `estimated`
_BARRIER_BYTES = 1024  # kept for the ring's barriers, to the alignment of the tiles behind them
_HOPPER = 90
_SHARED_BYTES = 227 << 10  # of a block, opted in (CUDA C++ Programming Guide, compute capability 9.0)


@frozen
class ProductSchedule:
    """Tile (rows, columns, depth), stages of the ring, blocks that share a tile of the right operand, rows of
    clusters that walk their columns together, and how float32 operands are multiplied."""

    rows: int = 128
    cols: int = 128
    depth: int = 64
    stages: int = 4
    cluster: int = 2
    group: int = 8
    precision: str = "bf16x6"

    @property
    def warpgroups(self) -> int:
        return 1 if self.rows == 64 else 2

    def shared_bytes(self, parts: int) -> int:
        return self.stages * parts * (self.rows + self.cols) * self.depth * 2 + _BARRIER_BYTES

    def sums(self, parts: int) -> int:
        """Float32 registers of a thread for results: with several parts, a total and two running sums."""
        return self.rows * self.cols // (128 * self.warpgroups) * (1 if parts == 1 else 3)


_FIELDS = tuple(a.name for a in ProductSchedule.__attrs_attrs__)


def is_matrix_product(call: LibraryCall) -> bool:
    """Whether the call may be one; types, layouts and sizes can still say no."""
    name = call.op.removeprefix("aten::").removesuffix(".default")
    return name in ("mm", "bmm") and len(call.operands) == 2 and not (
        call.attributes or call.outputs or call.repeat
    )  # fmt: skip


def _sizes(call: LibraryCall) -> tuple[int, int, int]:
    """Rows, columns, and how many such products."""
    left, right = call.operands
    return left.shape[-2], right.shape[-1], left.shape[0] if len(left.shape) == 3 else 1


def default_product(call: LibraryCall, parts: int, processors: int) -> ProductSchedule:
    """A large tile where there are enough of them to occupy the device, smaller ones otherwise."""
    m, n, batch = _sizes(call)
    tiles = [(128, 256, 2), (128, 128, 2), (64, 64, 1)][parts > 1 :]
    for rows, cols, cluster in tiles:
        count = -(-m // rows) * -(-n // cols) * batch
        if count >= processors or (rows, cols, cluster) == tiles[-1]:
            break
    # On an H100 a 4096^3 product of three parts took 0.99 ms at a depth of 32 and 1.42 at 64 and half the
    # stages.
    return ProductSchedule(rows, cols, 32 if parts > 1 else 64, 4, cluster if m > rows else 1)


def schedule_of(call: LibraryCall, point: Mapping[str, Any], parts: int, processors: int) -> ProductSchedule:
    """The schedule of a point (parameters named ``tile_…``), cut to what fits a block. What the point leaves
    open (0, or not there) is the default's."""
    given = {name: point[f"tile_{name}"] for name in _FIELDS if point.get(f"tile_{name}")}
    s = evolve(default_product(call, parts, processors), **given)
    while s.sums(parts) > _SUMS_PER_THREAD:
        s = evolve(s, cols=s.cols // 2) if s.cols > 64 else evolve(s, rows=s.rows // 2)
    while s.shared_bytes(parts) > _SHARED_BYTES and s.stages > 2:
        s = evolve(s, stages=s.stages - 1)
    return evolve(s, depth=32) if s.shared_bytes(parts) > _SHARED_BYTES else s


def _known_parts(call: LibraryCall) -> int | None:
    """3 for float32 operands, 1 for half precision; None where no epilogue shows their type."""
    if call.epilogue is None:
        return None
    loads = [e for x in call.epilogue.expressions() for e in walk(x) if isinstance(e, Load)]
    return next((3 if itemsize(e.dtype) == 4 else 1 for e in loads if e.buffer == call.output), None)


def product_space(call: LibraryCall, facts: Mapping[str, Any]) -> Space:
    """Tunables of a matrix product on a device with ``facts``: by CuTe DSL on Hopper, whose instructions it
    takes, or the library. 0 leaves a size to the renderer, which knows the operands' type."""
    if int(facts.get("compute_capability", _HOPPER)) != _HOPPER:
        return Space((Parameter("implementation", ("library",), "library"),))
    parameters = [
        Parameter("implementation", ("library", "generated"), "generated"),
        Parameter("tile_rows", (0, 64, 128, 256), 0),
        Parameter("tile_cols", (0, 64, 128, 256), 0),
        Parameter("tile_depth", (0, 32, 64), 0),
        Parameter("tile_stages", (0, 2, 3, 4, 5, 6, 8), 0),
        Parameter("tile_cluster", (0, 1, 2), 0),
        Parameter("tile_group", (0, 1, 4, 8, 16), 0),
    ]
    parts = _known_parts(call)
    if parts != 1:
        parameters.append(Parameter("tile_precision", tuple(sorted(PAIRS)), "bf16x6", ("bf16x3",)))
    own = {p.name: p.default for p in parameters}
    processors = int(facts.get("multiprocessors", 132))

    def only_generated(p: Mapping[str, Any]) -> bool:
        return p["implementation"] == "generated" or all(
            p[name] == value for name, value in own.items() if name.startswith("tile_")
        )

    def fits(p: Mapping[str, Any]) -> bool:
        s = schedule_of(call, p, parts or 1, processors)
        return all(p.get(f"tile_{name}") in (0, None, getattr(s, name)) for name in _FIELDS)

    return Space(
        tuple(parameters),
        (
            Constraint("the library has no tile to choose", only_generated),
            Constraint(
                f"tiles in flight fit {_SHARED_BYTES} bytes, and a thread keeps {_SUMS_PER_THREAD} sums", fits
            ),
        ),
    )
