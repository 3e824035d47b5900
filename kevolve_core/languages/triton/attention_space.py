"""Schedule space of attention in Triton: its blocks, within what a processor holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kevolve_core.ir import Attention, itemsize
from kevolve_core.languages.triton.render.attention import attention_schedule, operand_types, padded
from kevolve_core.space import Constraint, Parameter, Space

if TYPE_CHECKING:
    from kevolve_core.languages.triton.spaces import TritonFacts

__all__ = ["attention_space"]

_BLOCKS = (16, 32, 64, 128)
_PER_THREAD = 288  # scores, sums and weights a thread holds, beyond which registers spill; `estimated`
#: Blocks of queries and keys and stages to begin with, the largest that fit a device; `estimated`.
_DEFAULTS = ((64, 64, 2), (64, 32, 2), (64, 16, 2), (32, 32, 2), (32, 16, 1), (16, 16, 1))
#: Schemes of float32 products to begin with, where a target has them: as exact as the parity policy asks, and
#: on matrix units. Products without them keep their operands in registers, which spill.
_PRECISE = ("bf16x6", "tf32x3")


def attention_space(a: Attention, facts: TritonFacts) -> Space:
    """Tunables of ``a`` with constraints from ``facts``. The default point is legal."""
    of_scores, of_values = operand_types(a)
    depth, width = padded(a.depth), padded(a.width)
    widest = facts.max_threads // facts.warp_size
    wide = "float32" in (of_scores, of_values)
    default_warps = min(8 if max(depth, width) > (64 if wide else 128) else 4, widest)

    def most_warps(block_m: int) -> int:
        return max(4, block_m // 16) if facts.warps_along_rows else widest

    def shared(p: Mapping[str, Any]) -> float:
        # Queries of float32 lie there as they are and once more divided into what the scheme multiplies.
        queries = p["block_m"] * (2 if of_scores == "float32" else 1)
        block = (queries + p["block_n"] * p["num_stages"]) * depth * itemsize(of_scores)
        return float(block + p["block_n"] * p["num_stages"] * width * itemsize(of_values))

    def registers(p: Mapping[str, Any]) -> float:
        # Scores and their weights, the sums and the product added to them.
        held = p["block_m"] * (2 * p["block_n"] + width)
        return float(held / (p["num_warps"] * facts.warp_size))

    def start(m: int, n: int, stages: int) -> dict[str, Any]:
        cut = attention_schedule(a, {"block_m": m, "block_n": n})
        sizes = {"block_m": cut.block_m, "block_n": cut.block_n}
        return {**sizes, "num_warps": min(default_warps, most_warps(cut.block_m)), "num_stages": stages}

    def fits(p: Mapping[str, Any]) -> bool:
        return shared(p) <= facts.shared_bytes and registers(p) <= _PER_THREAD

    choices = [start(*x) for x in _DEFAULTS[wide:]]  # schemes of float32 take registers of their own
    default = next((p for p in choices if fits(p)), choices[-1])
    most_shared, most_held = max(facts.shared_bytes, shared(default)), max(_PER_THREAD, registers(default))
    warps = tuple(w for w in (1, 2, 4, 8, 16) if w <= widest)
    parameters = [
        Parameter("block_m", tuple(b for b in _BLOCKS if b <= padded(a.rows)), default["block_m"]),
        Parameter("block_n", tuple(b for b in _BLOCKS if b <= padded(a.cols)), default["block_n"]),
        Parameter("num_warps", warps, default["num_warps"]),
        Parameter("num_stages", (1, 2, 3, 4), default["num_stages"]),
    ]
    if wide and len(facts.precisions) > 1:
        first = next((x for x in _PRECISE if x in facts.precisions), facts.precisions[0])
        parameters.append(Parameter("precision", facts.precisions, first, facts.coarse))
    starts = facts.attention_starts if wide else facts.half_attention_starts
    if any(x is not None for x in a.sees):
        skips = attention_schedule(a, {}).skip_hidden
        parameters.append(Parameter("skip_hidden", (False, True), skips))
        starts = tuple({"skip_hidden": True, **s} for s in ({}, *starts))
    names = {p.name for p in parameters}
    return Space(
        tuple(parameters),
        (
            Constraint(
                f"blocks in flight fit {facts.shared_bytes} bytes of on-chip memory",
                lambda p: shared(p) <= most_shared,
            ),
            Constraint(
                f"a thread keeps at most {_PER_THREAD} scores and sums",
                lambda p: registers(p) <= most_held,
            ),
            Constraint(
                "warps beyond four have 16 rows each: groups that share rows compile wrongly here",
                lambda p: bool(p["num_warps"] <= most_warps(p["block_m"])),
            ),
        ),
        tuple({k: v for k, v in s.items() if k in names} for s in starts),
    )
