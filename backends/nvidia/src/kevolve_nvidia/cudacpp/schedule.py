"""How a nest's rows are dealt to threads, and the space of such schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attrs import evolve, frozen

from kevolve_core.ir import Let, Load, LoopNest, Reduce, Store, affine, itemsize, walk
from kevolve_core.languages.triton.render.tiling import Tiling, expressions, tiling_of
from kevolve_core.languages.triton.render.words import power_of_two
from kevolve_core.space import Constraint, Parameter, Space

__all__ = ["WIDEST_ROW", "RowSchedule", "crosses", "default_rows", "row_schedule", "row_space"]

#: A row that one block of 1024 threads holds with 64 values a thread (of 255 registers); `estimated`.
WIDEST_ROW = 1024 * 64
_PER_THREAD = 64
_THREADS = 256  # a block by default; `estimated`
_ACCESSES = 4  # to a row that a thread makes by default, all in flight at once; `estimated`
_BYTES = 16  # of the widest access (CUDA C++ Programming Guide, Device Memory Accesses)


@frozen
class RowSchedule:
    """Threads of a block and of a row, and neighbouring columns that a thread accesses at once.

    Args:
        lanes: threads a row, a power of two; beyond 32 they meet in shared memory.
        threads: threads a block, a multiple of ``lanes``.
        vector: columns an access.
        chunks: accesses a thread makes along a row (of a nest without reductions: of a tile of it).
    """

    lanes: int = 32
    threads: int = _THREADS
    vector: int = 4
    chunks: int = 1


def _power_below(n: int) -> int:
    return 1 << max(0, n.bit_length() - 1)


def _widest_vector(nest: LoopNest, tiling: Tiling) -> int:
    """Columns of the smallest type in memory that fill 16 bytes; a power of two that divides the row."""
    found = [s.value.dtype for s in nest.body if isinstance(s, Store)]
    found += [e.dtype for s in nest.body for x in expressions(s) for e in walk(x) if isinstance(e, Load)]
    wanted = _BYTES // min(itemsize(d) for d in found)
    return min(8, math.gcd(tiling.col_count, wanted))


def default_rows(nest: LoopNest) -> RowSchedule:
    """As many threads a row as leave each a few accesses."""
    tiling = tiling_of(nest)
    vector = _widest_vector(nest, tiling) if _unit_columns(nest, tiling) else 1
    accesses = max(1, tiling.col_count // vector)
    if not tiling.combines:
        lanes = min(_THREADS, _power_below(accesses))
        chunks = min(2, -(-accesses // lanes))
        return RowSchedule(lanes, _THREADS, vector, chunks)
    each = _ACCESSES * max(vector, 4)
    lanes = min(power_of_two(-(-tiling.col_count // each)), _power_below(accesses), 1024)
    return resolved(nest, RowSchedule(lanes, max(_THREADS, lanes), vector))


def _unit_columns(nest: LoopNest, tiling: Tiling) -> bool:
    """Whether some access runs along memory with the columns."""
    last = tiling.cols[-1].name if tiling.cols else ""
    for s in nest.body:
        accesses = [e for x in expressions(s) for e in walk(x) if isinstance(e, Load)]
        for access in (*accesses, *((s,) if isinstance(s, Store) else ())):
            form = affine(access.index[-1]) if access.index else None
            if form is not None and form[1].get(last) == 1:
                return True
    return False


def crosses(nest: LoopNest) -> bool:
    """Whether some access runs along memory with another axis than the columns, which cross it."""
    tiling = tiling_of(nest)
    last = tiling.cols[-1].name if tiling.cols else ""
    for s in nest.body:
        accesses = [e for x in expressions(s) for e in walk(x) if isinstance(e, Load)]
        for access in (*accesses, *((s,) if isinstance(s, Store) else ())):
            form = affine(access.index[-1]) if access.index else None
            if form is not None and 1 in form[1].values() and form[1].get(last, 0) > 1:
                return True
    return False


def resolved(nest: LoopNest, s: RowSchedule) -> RowSchedule:
    """``s`` cut to what the nest has: the vector divides the row, and a reduced row is held whole."""
    tiling = tiling_of(nest)
    vector = math.gcd(tiling.col_count, s.vector)
    accesses = -(-tiling.col_count // vector)
    if not tiling.combines:
        return evolve(s, vector=vector, chunks=max(1, min(s.chunks, -(-accesses // s.lanes))))
    return evolve(s, vector=vector, chunks=-(-accesses // s.lanes))


def row_schedule(nest: LoopNest, point: Mapping[str, Any]) -> RowSchedule:
    """The point of `row_space` cut to ``nest`` (another case may have shorter rows); what it lacks is the
    default's."""
    base = default_rows(nest)
    lanes = int(point.get("lanes", base.lanes))
    need = -(-tiling_of(nest).col_count // _PER_THREAD)
    if tiling_of(nest).combines:
        lanes = min(1024, max(lanes, power_of_two(need)))
    threads = max(int(point.get("threads", base.threads)), lanes)
    vector, chunks = int(point.get("vector", base.vector)), int(point.get("chunks", base.chunks))
    return resolved(nest, RowSchedule(lanes, threads, vector, chunks))


def row_space(nest: LoopNest) -> Space:
    """Tunables of a nest that `kevolve_nvidia.cudacpp.rows` prints."""
    tiling, default = tiling_of(nest), default_rows(nest)
    arrays = 1 + sum(isinstance(s, Let) for s in nest.body) + any(isinstance(s, Reduce) for s in nest.body)
    lanes = tuple(1 << k for k in range(11))
    vectors = tuple(v for v in (1, 2, 4, 8) if tiling.col_count % v == 0)
    parameters = [
        Parameter("lanes", lanes, default.lanes),
        Parameter("threads", tuple(sorted({64, 128, 256, 512, 1024, default.threads})), default.threads),
        Parameter("vector", vectors, default.vector),
    ]
    if not tiling.combines:
        parameters.append(Parameter("chunks", tuple(sorted({1, 2, 4, 8, default.chunks})), default.chunks))

    def fits(p: Mapping[str, Any]) -> bool:
        return bool(p["lanes"] <= p["threads"])

    def holds(p: Mapping[str, Any]) -> bool:
        chunks = p.get("chunks") or -(-tiling.col_count // (p["lanes"] * p["vector"]))
        values = chunks * p["vector"]
        own = default.chunks * default.vector
        return bool(values <= max(_PER_THREAD // min(arrays, 2), own))

    return Space(
        tuple(parameters),
        (
            Constraint("a row's threads are in one block", fits),
            Constraint(f"a thread holds at most {_PER_THREAD} values of a row", holds),
        ),
    )
