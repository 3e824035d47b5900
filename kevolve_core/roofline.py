"""Where a time lies under the roofline: one way to say it for every profiler.

The model is that of Williams, Waterman and Patterson ("Roofline", CACM 52(4), 2009), with the launch as a
third ceiling, since kernels of a few microseconds meet that one first.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from kevolve_core.interfaces import Profiler, Work
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.model import Artifact, Evidence, Profile, Roofline, freeze

__all__ = ["Ceilings", "RooflineProfiler", "bottleneck"]

# Limits of the classes; all `estimated`.
_BUSY = 0.5  # share of a ceiling from which on a resource is called the bottleneck
_TIE = 1.5  # memory and compute shares within this factor: balanced
_LAUNCH = 0.3  # share of the time that an empty launch takes


@frozen
class Ceilings:
    """The best a device can do: rates that were measured (or those of its simulator), and its shortest
    call."""

    bytes_per_s: float
    flops_per_s: float
    launch_seconds: float = 0.0

    def floor(self, work: Work) -> float:
        """Seconds under which no correct kernel can stay: compulsory bytes at the best rate, plus a launch.
        FLOPs are not in it: what has to be computed can be counted too high, what has to be moved cannot."""
        return work.bytes / self.bytes_per_s + self.launch_seconds

    def roofline(self, work: Work, seconds: float) -> Roofline:
        """The bound is the highest of the three ceilings. ``seconds`` is above zero."""
        memory, compute = work.bytes / self.bytes_per_s, work.flops / self.flops_per_s
        bound = max(memory, compute, self.launch_seconds)
        return Roofline(work.bytes, work.flops, self.bytes_per_s, self.flops_per_s, bound, bound / seconds)

    def shares(self, work: Work, seconds: float) -> dict[str, float]:
        """``memory_fraction``, ``compute_fraction`` and ``launch_fraction``: of ``seconds``, what each would
        need at its ceiling."""
        return {
            "memory_fraction": work.bytes / self.bytes_per_s / seconds,
            "compute_fraction": work.flops / self.flops_per_s / seconds,
            "launch_fraction": self.launch_seconds / seconds,
        }


def bottleneck(memory: float, compute: float, launch: float, busy: float = _BUSY) -> str:
    """``memory``, ``compute``, ``balanced`` (both), or ``latency`` (neither is near its ceiling), from shares
    of the time. ``busy`` is the least share of a bottleneck."""
    if launch >= _LAUNCH or max(memory, compute) < busy:
        return "latency"
    if min(memory, compute) * _TIE >= max(memory, compute):
        return "balanced"
    return "memory" if memory > compute else "compute"


@frozen
class RooflineProfiler(Profiler):
    """A whole profiler from a device's ceilings: the first one a backend has.

    Args:
        ceilings: of the device.
        evidence: of its times.
        advice: what to do about it in words, by `bottleneck`.
    """

    ceilings: Ceilings
    evidence: Evidence
    advice: Mapping[str, str] = field(factory=dict, converter=freeze, hash=False)

    def floor(self, work: Work) -> float:
        return self.ceilings.floor(work)

    def profile(
        self,
        spec: KernelSpec,
        case: Case,
        work: Work,
        seconds: float,
        artifact: Artifact,
        counters: Mapping[str, float],
    ) -> Profile:
        """Pure in its arguments; ``counters`` are passed on."""
        del spec, case, artifact
        return self.explain(work, seconds, counters)

    def explain(self, work: Work, seconds: float, counters: Mapping[str, float]) -> Profile:
        """The profile of a call."""
        if seconds <= 0:
            return Profile(self.evidence, counters, hints=("no time was measured",))
        shares = self.ceilings.shares(work, seconds)
        found = bottleneck(*shares.values())
        seen = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        hints = (f"{seen}: {self.advice[found]}",) if found in self.advice else ()
        shown = {**counters, "seconds": seconds, **shares}
        return Profile(self.evidence, shown, self.ceilings.roofline(work, seconds), found, hints)
