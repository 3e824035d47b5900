"""Which programs may be launched as one CUDA graph: those whose launches take the host long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kevolve_core.ir import LibraryCall, Program
from kevolve_core.languages.triton import REPLAY
from kevolve_core.model import Device
from kevolve_core.space import Parameter, Space
from kevolve_core.synth.work import program_work
from kevolve_nvidia.graphs import Replayed

__all__ = ["graph_remarks", "launches", "program_space"]

#: Launches from which a graph is offered; `estimated`.
_MANY = 15
#: What the host needs for a launch of a program that mixes kernels and library calls; `estimated`.
_HOST_S = 20e-6
#: Of an H100 (SXM) by its data sheet, where nothing was measured: float32 outside of tensor cores.
_BYTES_PER_S, _FLOPS_PER_S = 3.35e12, 67e12


def program_space(programs: Sequence[Program], device: Device) -> Space:
    """Whether the launches of ``programs`` are replayed as a CUDA graph (`kevolve_nvidia.graphs`). Offered
    where the host may well take longer for them than the device for the compulsory work, and where nothing
    that a caller owns is written: a capture runs the program a second time."""
    if not any(_launch_bound(p, device) for p in programs) or any(map(_writes_given, programs)):
        return Space()
    return Space((Parameter(REPLAY, (False, True), False),), starts=({REPLAY: True},))


def launches(program: Program) -> int:
    """Kernels and library calls that one call of ``program`` makes, by its steps."""
    total = 0
    for step in program.singles():
        if isinstance(step, LibraryCall):
            total += max(1, step.repeat) * (1 if step.epilogue is None else 2)
        else:
            total += 1
    return total


def _launch_bound(program: Program, device: Device) -> bool:
    count = launches(program)
    if count < _MANY:
        return False
    work = program_work(program)
    moved = work.bytes / float(device.facts.get("peak_bytes_per_s", _BYTES_PER_S))
    computed = work.flops / float(device.facts.get("peak_flops_per_s", _FLOPS_PER_S))
    return count * _HOST_S >= max(moved, computed)


def _writes_given(program: Program) -> bool:
    given = {b.name for b in (*program.inputs(), *program.params())}
    return any(given & set(nest.writes()) for nest in program.nests())


def graph_remarks(replayed: Sequence[Replayed]) -> Mapping[str, str]:
    """What to say about a loaded candidate's graphs, one a case; nothing about one that asked for none."""
    if not replayed:
        return {}
    if reason := next((r.reason for r in replayed if r.reason), ""):
        return {"CUDA graph": f"no: {reason}"}
    return {"CUDA graph": "yes" if any(r.replays for r in replayed) else "not called yet"}
