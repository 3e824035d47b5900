"""Why a candidate takes the time it takes: its place under this GPU's roofline, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from kevolve_core.interfaces import Work
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Device, Evidence, Profile
from kevolve_core.roofline import Ceilings, bottleneck
from kevolve_nvidia.ncu import Readings, read_counters
from kevolve_nvidia.peaks import Peaks, measure_peaks
from kevolve_nvidia.settings import Settings

__all__ = ["NvidiaProfiler", "explain", "matmul_peak"]

# Limits of the classes; all `estimated`.
_NEAR = 0.85  # at this share little is left to win
_LAUNCH = 0.3  # share of the time that an empty launch takes
_LOW_OCCUPANCY = 0.4
_STALLED = 2.0  # warps that wait for one reason while another issues


@frozen
class NvidiaProfiler:
    """See `kevolve_core.interfaces.Profiler`. The GPU's ceilings are measured at the first use."""

    device: Device
    settings: Settings

    def floor(self, work: Work) -> float:
        """Compulsory bytes at the best memory rate measured on this GPU, plus an empty launch. As much as
        the L2 cache holds is left out: the end of a result is still there when the kernel ends (counted on an
        H100: 246 of 268 MB of a float32 RMSNorm reached memory)."""
        peaks = measure_peaks(self.device, self.settings)
        moved = max(0.0, work.bytes - float(self.device.facts.get("l2_bytes", 0)))
        return moved / peaks.peak_bytes_per_s + peaks.launch_seconds

    def profile(
        self,
        spec: KernelSpec,
        case: Case,
        work: Work,
        seconds: float,
        artifact: Artifact,
        counters: Mapping[str, float],
    ) -> Profile:
        """Roofline position of a call of ``seconds`` that has to do ``work``, with Nsight Compute's counters
        of one more call where ``ncu`` may read them."""
        peaks = measure_peaks(self.device, self.settings)
        readings = read_counters(spec, case, artifact, self.device, self.settings)
        return explain(work, seconds, peaks, matmul_peak(spec, peaks), artifact.facts, counters, readings)


def matmul_peak(spec: KernelSpec, peaks: Peaks) -> float:
    """The rate that a matmul of the spec's inputs can reach at their precision: the library's for 16-bit
    types; for float32 the library's, or a sixth of bfloat16's, since six bfloat16 products carry a float32
    one."""
    rates = peaks.matmul_flops_per_s
    types = {s.dtype for case in spec.cases for s in case.inputs if s.shape is not None}
    for name in ("bfloat16", "float16"):
        if name in types and "float32" not in types:
            return rates[name]
    return max(rates["float32"], rates["bfloat16"] / 6)


def explain(
    work: Work,
    seconds: float,
    peaks: Peaks,
    flops_per_s: float,
    facts: Mapping[str, Any],
    counters: Mapping[str, float],
    readings: Readings,
) -> Profile:
    """The profile of a call: pure in its arguments."""
    if seconds <= 0:
        return Profile(evidence=Evidence.MEASURED, counters=counters, hints=("no time was measured",))
    ceilings = Ceilings(peaks.peak_bytes_per_s, flops_per_s, peaks.launch_seconds)
    shown = {
        **counters,
        "seconds": seconds,
        "achieved_gb_per_s": work.bytes / seconds / 1e9,
        "achieved_tflop_per_s": work.flops / seconds / 1e12,
        **ceilings.shares(work, seconds),
        **{k: float(facts[k]) for k in ("registers", "spill_bytes", "shared_bytes") if k in facts},
        **({"theoretical_occupancy": float(facts["occupancy"])} if "occupancy" in facts else {}),
        **readings.values,
    }
    found = _bottleneck(shown)
    hints = (*_class_hints(found, shown, peaks, flops_per_s), *_detail_hints(shown, facts, readings))
    return Profile(Evidence.MEASURED, shown, ceilings.roofline(work, seconds), found, hints)


def _bottleneck(shown: Mapping[str, float]) -> str:
    """``memory``, ``compute``, ``balanced`` or ``latency``: by counters where there are any, which see the
    traffic that was made and not only what had to be."""
    memory = max(shown["memory_fraction"], shown.get("dram_throughput", 0.0))
    compute = max(
        shown["compute_fraction"], shown.get("tensor_throughput", 0.0), shown.get("sm_throughput", 0.0)
    )
    return bottleneck(memory, compute, shown["launch_fraction"])


def _class_hints(
    bottleneck: str, shown: Mapping[str, float], peaks: Peaks, flops_per_s: float
) -> tuple[str, ...]:
    rate = f"{shown['achieved_gb_per_s']:.0f} of {peaks.peak_bytes_per_s / 1e9:.0f} GB/s"
    flops = f"{shown['achieved_tflop_per_s']:.1f} of {flops_per_s / 1e12:.0f} TFLOP/s"
    if shown["launch_fraction"] >= _LAUNCH:
        return (
            f"launch_fraction {shown['launch_fraction']:.2f}: an empty launch takes much of this time; "
            "fuse into one kernel, and use all multiprocessors",
        )
    if bottleneck == "memory":
        if shown["memory_fraction"] >= _NEAR:
            return (f"memory_fraction {shown['memory_fraction']:.2f} ({rate}): little is left to win",)
        return (
            f"memory_fraction {shown['memory_fraction']:.2f} ({rate}): read each input once, 16 bytes a "
            "thread, with several loads in flight before the first use",
        )
    if bottleneck == "compute":
        return (
            f"compute_fraction {shown['compute_fraction']:.2f} ({flops}): tensor-core instructions on every "
            "operand type that allows them, larger tiles, more stages in flight",
        )
    if bottleneck == "balanced":
        return (f"memory and compute are both busy ({rate}, {flops}): overlap them with a deeper pipeline",)
    return (
        f"neither memory nor compute is near its ceiling ({rate}, {flops}): too few blocks or loads in "
        "flight, dependent steps, or several kernels where one would do",
    )


def _detail_hints(
    shown: Mapping[str, float], facts: Mapping[str, Any], readings: Readings
) -> tuple[str, ...]:
    hints = []
    if shown.get("spill_bytes", 0) > 0:
        hints.append(
            f"spill_bytes {shown['spill_bytes']:.0f} a thread: registers go to local memory; smaller tiles "
            "or more warps a block"
        )
    occupancy = shown.get("theoretical_occupancy", 1.0)
    if occupancy < _LOW_OCCUPANCY and "compute" not in readings.note:
        limits = {f.get("occupancy_limit", "") for f in facts.get("kernels", {}).values()} - {""}
        hints.append(
            f"theoretical_occupancy {occupancy:.2f}, limited by {' and '.join(sorted(limits)) or '?'}"
        )
    loads = _mix(facts, "load_global")
    if loads and _mix(facts, "wide_load_global") == 0:
        hints.append(
            f"sass.load_global {loads}, none of 16 bytes: loads are narrow; align them and give a thread "
            "several neighbours"
        )
    moved = shown.get("dram_bytes")
    compulsory = shown["achieved_gb_per_s"] * 1e9 * shown["seconds"]
    if moved is not None and compulsory and moved > 1.3 * compulsory:
        hints.append(
            f"dram_bytes are {moved / compulsory:.1f} times the compulsory ones: data is moved twice"
        )
    reason, warps = max(readings.stalls.items(), key=lambda item: item[1], default=("", 0.0))
    if warps > _STALLED:
        hints.append(f"stall_{reason} {warps:.1f} warps an issue: {_STALLS.get(reason, 'the main wait')}")
    if readings.note:
        hints.append(readings.note)
    return tuple(hints)


def _mix(facts: Mapping[str, Any], name: str) -> int:
    kernels: Mapping[str, Mapping[str, Any]] = facts.get("kernels", {})
    return sum(int(f.get("sass", {}).get(name, 0)) for f in kernels.values())


#: Nsight Compute's stall reasons (Nsight Compute documentation, Warp Scheduler States) in words.
_STALLS: Mapping[str, str] = {
    "long_scoreboard": "warps wait for global memory; more loads in flight, or a pipeline with more stages",
    "short_scoreboard": "warps wait for shared memory or special functions; fewer bank conflicts",
    "barrier": "warps wait for one another; fewer barriers, or smaller blocks",
    "lg_throttle": "too many narrow loads are queued; wider ones",
    "mio_throttle": "the shared-memory queue is full; fewer, wider accesses",
    "math_pipe_throttle": "the arithmetic pipe is full, which is where a compute-bound kernel should be",
    "wait": "fixed latencies show; more independent instructions",
}
