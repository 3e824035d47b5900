"""Schedule spaces of Triton steps: what a backend's `schedule_space` offers for the language.

A backend gives `TritonFacts` of its device; constraints come from them, so that a point which cannot be
launched is never proposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from kevolve_core.ir import Contract, LibraryCall, LoopNest, Reduce, Scan, Step
from kevolve_core.languages.triton.render.schedule import NestSchedule
from kevolve_core.languages.triton.render.tiling import Tiling, online_pairs, tiling_of
from kevolve_core.languages.triton.render.words import power_of_two
from kevolve_core.space import Constraint, Parameter, Space

__all__ = ["TritonFacts", "default_schedule", "schedule_space"]

_WHOLE_ROW = 16384  # columns up to which a row is held in registers by default; estimated
_WIDEST_ROW = 65536  # columns beyond which a row is never held in registers; estimated
_TILE = 2048  # elements of a tile of short rows; estimated
_ADDITIONS = 32  # additions of one running float32 sum beyond which it is kept in float64; estimated
_PER_THREAD = 128  # elements of a tile a thread holds at most, before registers spill; estimated


@frozen
class TritonFacts:
    """What constraints need to know of a device.

    Args:
        processors: units that run programs side by side (multiprocessors, compute units).
        warp_size: lanes a warp.
        max_threads: threads of one program at most.
        shared_bytes: on-chip memory a program may use.
        float64: whether float64 is worth offering for sums.
    """

    processors: int = 64
    warp_size: int = 32
    max_threads: int = 1024
    shared_bytes: int = 48 << 10
    float64: bool = True


def default_schedule(nest: LoopNest, facts: TritonFacts | None = None) -> NestSchedule:
    """A schedule that is good on most targets: short rows several a program, long ones in steps."""
    facts = facts or TritonFacts()
    tiling = tiling_of(nest)
    rows, cols = power_of_two(tiling.row_count), power_of_two(tiling.col_count)
    widest = facts.max_threads // facts.warp_size
    if not tiling.combines:
        c = min(cols, 1024)
        r = max(1, min(rows, 1024 // c))
        return NestSchedule(rows=r, cols=c, num_warps=min(4, widest))
    whole = cols if cols <= _WHOLE_ROW else 4096
    r = max(1, min(rows, _TILE // whole))
    warps = min(power_of_two(max(1, r * whole // (16 * facts.warp_size))), 16, widest)
    long = facts.float64 and cols // whole > _ADDITIONS
    scan = facts.float64 and any(isinstance(s, Scan) for s in nest.body)
    return NestSchedule(
        rows=r, cols=whole, num_warps=warps, accumulate="fp64" if _sums(nest) and (long or scan) else "fp32"
    )


def _sums(nest: LoopNest) -> bool:
    """Whether a float32 sum or product is in it, whose type can be chosen."""
    return any(
        isinstance(s, (Reduce, Scan, Contract))
        and s.accumulate == "float32"
        and (isinstance(s, Contract) or s.combiner in ("sum", "prod"))
        for s in nest.body
    )


def schedule_space(step: Step, facts: TritonFacts) -> Space:
    """Tunables of ``step`` in Triton, with constraints from ``facts``. The default point is legal."""
    nest = step.epilogue if isinstance(step, LibraryCall) else step
    if nest is None:
        return Space()
    parameters, constraints = _nest_parameters(nest, facts)
    return Space(tuple(parameters), tuple(constraints))


def _powers(low: int, high: int) -> tuple[int, ...]:
    return tuple(1 << k for k in range(low.bit_length() - 1, max(low, high).bit_length()))


def _with(choices: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    return tuple(sorted({*choices, value}))


def _nest_parameters(nest: LoopNest, facts: TritonFacts) -> tuple[list[Parameter], list[Constraint]]:
    tiling, default = tiling_of(nest), default_schedule(nest, facts)
    rows, cols = power_of_two(tiling.row_count), power_of_two(tiling.col_count)
    row_choices = _with(_powers(1, min(rows, 128)), default.rows)
    if tiling.combines:
        col_choices = _with(_powers(min(cols, 64), min(cols, 8192)), default.cols)
        col_choices = _with(col_choices, cols) if cols <= _WIDEST_ROW else col_choices
    else:
        col_choices = _with(_powers(min(cols, 16), min(cols, 4096)), default.cols)
    warps = tuple(w for w in (1, 2, 4, 8, 16, 32) if w * facts.warp_size <= facts.max_threads)
    parameters = [
        Parameter("rows", row_choices, default.rows),
        Parameter("cols", col_choices, default.cols),
        Parameter("num_warps", warps, default.num_warps),
    ]
    if tiling.combines:
        parameters += _looped(nest, tiling, default, facts)
    threads = facts.warp_size

    def holds(p: Mapping[str, Any]) -> bool:
        a_thread = p["rows"] * p["cols"] / (p["num_warps"] * threads)
        own = default.rows * default.cols / (default.num_warps * threads)
        return bool(min(1, own) <= a_thread <= max(_PER_THREAD, own))

    constraints = [
        Constraint(f"a tile has 1 to {_PER_THREAD} elements a thread", holds),
    ]
    return parameters, constraints


def _looped(nest: LoopNest, tiling: Tiling, default: NestSchedule, facts: TritonFacts) -> list[Parameter]:
    """Choices of nests that combine: pipelining, persistence, the type of sums."""
    found = [Parameter("num_stages", (1, 2, 3, 4), default.num_stages)]
    if tiling.row_count > facts.processors:
        counts = tuple(k * facts.processors for k in (1, 2, 4, 8))
        found.append(Parameter("programs", (0, *counts), 0))
    if _sums(nest) and facts.float64:
        found.append(Parameter("accumulate", ("fp32", "fp64"), default.accumulate))
    if online_pairs(nest):
        found.append(Parameter("online", (True, False), True))
    return found
