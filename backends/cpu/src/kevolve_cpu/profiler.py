"""Why a candidate takes the time it takes: its place under this host's roofline, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from kevolve_core.interfaces import Work
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Device, Evidence, Profile, Roofline
from kevolve_core.roofline import Ceilings, bottleneck
from kevolve_cpu.peaks import Peaks, measure_peaks
from kevolve_cpu.settings import Settings

__all__ = ["CpuProfiler", "classify", "explain"]

# Limits of the classes; all `estimated`.
_BUSY = (
    0.45  # share of the time that a resource at its measured ceiling would need, to be called the bottleneck
)
_NEAR = 0.75  # at this share little is left to win
_LAUNCH = 0.3  # share of the time that goes into calling


@frozen
class CpuProfiler:
    """See `kevolve_core.interfaces.Profiler`. The host's ceilings are measured at the first profile."""

    device: Device
    settings: Settings

    def floor(self, work: Work) -> float:
        """Compulsory bytes at the best memory rate measured on this host, plus an empty call."""
        return ceilings(measure_peaks(self.device, self.settings)).floor(work)

    def profile(
        self,
        spec: KernelSpec,
        case: Case,
        work: Work,
        seconds: float,
        artifact: Artifact,
        counters: Mapping[str, float],
    ) -> Profile:
        """Roofline position of a call of ``seconds`` that has to do ``work``. ``counters`` are per call,
        named as `software_counters` and perf's events (underscores for hyphens)."""
        del spec, case
        peaks = measure_peaks(self.device, self.settings)
        return explain(work, seconds, peaks, counters, artifact.diagnostics)


def ceilings(peaks: Peaks) -> Ceilings:
    """The roofline's view of what was measured."""
    return Ceilings(peaks.peak_bytes_per_s, peaks.fma_float32_flops_per_s, peaks.call_seconds)


def classify(work: Work, seconds: float, peaks: Peaks) -> str:
    """``memory``, ``compute``, ``balanced`` (both), or ``latency`` (neither is near its ceiling)."""
    memory, compute, launch = ceilings(peaks).shares(work, seconds).values()
    return bottleneck(memory, compute, launch, _BUSY)


def explain(
    work: Work, seconds: float, peaks: Peaks, counters: Mapping[str, float], diagnostics: str = ""
) -> Profile:
    """The profile of a call: pure in its arguments."""
    if seconds <= 0:
        return Profile(evidence=Evidence.MEASURED, counters=counters, hints=("no time was measured",))
    roofline = ceilings(peaks).roofline(work, seconds)
    shown = dict(counters)
    shown |= {
        "seconds": seconds,
        "achieved_gb_per_s": work.bytes / seconds / 1e9,
        "achieved_gflop_per_s": work.flops / seconds / 1e9,
        **ceilings(peaks).shares(work, seconds),
    }
    if counters.get("cycles") and "instructions" in counters:
        shown["instructions_per_cycle"] = counters["instructions"] / counters["cycles"]
    if "cpu_seconds" in counters:
        shown["busy_threads"] = counters["cpu_seconds"] / seconds
    found = classify(work, seconds, peaks)
    hints = (
        *_class_hints(found, roofline, shown, peaks, work),
        *_counter_hints(shown, peaks, diagnostics),
    )
    return Profile(Evidence.MEASURED, shown, roofline, found, hints)


def _class_hints(
    bottleneck: str, roofline: Roofline, shown: Mapping[str, float], peaks: Peaks, work: Work
) -> tuple[str, ...]:
    rate = f"{shown['achieved_gb_per_s']:.1f} of {peaks.peak_bytes_per_s / 1e9:.1f} GB/s"
    flops = f"{shown['achieved_gflop_per_s']:.1f} of {peaks.fma_float32_flops_per_s / 1e9:.0f} GFLOP/s"
    if roofline.fraction > 1.1:
        return (
            f"faster than the measured ceilings allow ({rate}, {flops}): data stayed in cache, less was done "
            "than counted, or the ceilings were measured on a busy host",
        )
    if shown["launch_fraction"] >= _LAUNCH:
        return (
            f"launch_fraction {shown['launch_fraction']:.2f}: calling costs as much as computing; use one "
            "native call, allocate one output, and avoid a parallel region for so little work",
        )
    if bottleneck == "memory":
        if shown["memory_fraction"] >= _NEAR:
            return (f"memory_fraction {shown['memory_fraction']:.2f} ({rate}): little is left to win",)
        gain = peaks.nontemporal_copy_bytes_per_s / peaks.copy_bytes_per_s
        stores = (
            f"non-temporal stores copy {gain:.1f} times as fast as plain ones here: use them for outputs "
            "that are not read again"
            if gain > 1.15
            else "plain stores copy as fast as non-temporal ones here"
        )
        return (f"memory_fraction {shown['memory_fraction']:.2f} ({rate}): read each input once; {stores}",)
    if bottleneck == "compute":
        return (
            f"compute_fraction {shown['compute_fraction']:.2f} ({flops}): use fused multiply-adds at full "
            "vector width with enough independent chains, and blocks that stay in the L1 and L2 caches",
        )
    if bottleneck == "balanced":
        return (f"memory and compute are both busy ({rate}, {flops}): overlap them, fewer passes help both",)
    what = f"{rate}, {flops}"
    share = f" ({work.library_flops / work.flops:.0%} in products)" if work.library_flops else ""
    return (
        f"neither memory nor compute is near its ceiling ({what}){share}: look for scalar or gathered loads, "
        "long dependency chains, several passes over the data, divisions, transcendental functions or idle "
        "threads",
    )


def _counter_hints(shown: Mapping[str, float], peaks: Peaks, diagnostics: str) -> tuple[str, ...]:
    hints = []
    threads = shown.get("busy_threads")
    if threads is not None and peaks.threads > 1 and threads < 0.7 * peaks.threads:
        hints.append(
            f"busy_threads {threads:.1f} of {peaks.threads}: part of the call runs on too few threads or "
            "waits"
        )
    faults = shown.get("minor_faults", 0.0)
    if faults * 1e-6 > 0.05 * shown["seconds"]:  # about 1 µs a fault; `estimated`
        hints.append(f"minor_faults {faults:.0f} a call: fresh temporaries are paged in; reuse or avoid them")
    cycles = shown.get("instructions_per_cycle")
    if cycles is not None and cycles < 0.7:
        hints.append(f"instructions_per_cycle {cycles:.2f}: the cores wait for memory or long operations")
    misses, references = shown.get("cache_misses"), shown.get("cache_references")
    if misses is not None and references and misses > 0.5 * references:
        hints.append(
            f"cache_misses are {misses / references:.0%} of cache_references: data is not reused in cache"
        )
    if "cycles" not in shown:
        hints.append("no hardware counters on this host: the class rests on time and counted work alone")
    if "warning:" in diagnostics:
        first = next(row for row in diagnostics.splitlines() if "warning:" in row)
        hints.append(f"compiler: {first.strip()[:160]}")
    return tuple(hints)
