"""The profiler: its numbers follow from the work and the counters it was given, and it invents none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kevolve_core.interfaces import Work
from kevolve_core.model import Evidence, Profile
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.subject import Subject

__all__ = ["ANALYTIC", "CHECKS"]

#: Counters of these names mean the same everywhere, and are held against what a copy of n float32 must do.
ANALYTIC = ("bytes_read", "bytes_written", "launches")
_BOTTLENECKS = ("memory", "compute", "latency", "balanced", "unknown")
#: How far a counter may be off: prefetching and partial lines read more than is asked for (estimated).
_LOW, _HIGH = 0.8, 1.6
_PROFILE = frozenset({"compile", "run", "time", "profile"})


def _work(n: int) -> Work:
    return Work(bytes=8.0 * n, flops=float(n))


def _profile(subject: Subject, key: str) -> tuple[Profile, Mapping[str, Any], int]:
    """(profile, counters and seconds it was made from, n) of one copy probe, taken around its calls."""
    p = subject.probes
    candidate, n = (p.copy, p.elements) if key == "copy" else (p.copy_twice, 2 * p.elements)
    counted = subject.bench.call("counted", key=key)
    spec = subject.spec(n)
    profiler = subject.backend.profiler(subject.device)
    assert profiler is not None
    artifact = subject.compile(candidate, n)
    made = profiler.profile(spec, spec.cases[0], _work(n), counted["seconds"], artifact, counted["counters"])
    if not isinstance(made, Profile):
        raise fail("a Profile", got=type(made).__name__, mend="return kevolve_core.model.Profile(…)")
    return made, counted, n


def consistent(subject: Subject) -> None:
    """The roofline is that of the work it was given, no counter is negative, and the bottleneck and hints are
    readable."""
    made, counted, n = _profile(subject, "copy")
    seconds = counted["seconds"]
    if made.evidence not in set(Evidence):
        raise fail(f"evidence from {', '.join(Evidence)}", got=made.evidence, mend="use the manifest's")
    if made.evidence == Evidence.MEASURED and not subject.measured:
        raise fail(
            f"evidence no stronger than the backend's, '{subject.manifest.evidence}'",
            got=made.evidence,
            where="Profile.evidence",
            mend="a simulator's counters are simulated",
        )
    if made.bottleneck not in _BOTTLENECKS:
        raise fail(
            f"a bottleneck from {', '.join(_BOTTLENECKS)}", got=made.bottleneck, mend="use one of them"
        )
    if not all(isinstance(hint, str) and hint.strip() for hint in made.hints):
        raise fail("hints that are sentences", got=made.hints, mend="leave out empty ones")
    for name, value in made.counters.items():
        if not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
            raise fail(
                "counters to be finite numbers, not below zero: what one call did",
                got=f"{name} = {value!r}",
                where="Profile.counters, Runner.counters",
                mend="Runner.counters() gives running totals, which never fall and are not set back; the kit "
                "takes the difference over a call",
            )
    r = made.roofline
    if r is None:
        return
    work = _work(n)
    bound = r.bytes / r.peak_bytes_per_s if r.peak_bytes_per_s > 0 else math.inf
    if r.bytes != work.bytes or r.flops != work.flops:
        raise fail(
            f"a roofline over the work given: {work.bytes:g} bytes, {work.flops:g} FLOPs",
            got=f"{r.bytes:g} bytes, {r.flops:g} FLOPs",
            where="Profile.roofline",
            mend="take bytes and flops from the Work that profile() is given",
        )
    if not bound * 0.999 <= r.bound_seconds < math.inf:
        raise fail(
            f"a bound of at least bytes over peak bandwidth, {bound:.3g} s",
            got=f"{r.bound_seconds:.3g} s",
            where="Profile.roofline.bound_seconds",
            mend="the largest of bytes/peak_bytes_per_s, flops/peak_flops_per_s and the launch",
        )
    if not math.isclose(r.fraction, r.bound_seconds / seconds, rel_tol=0.01):
        raise fail(
            f"fraction to be bound over achieved seconds, {r.bound_seconds / seconds:.3g}",
            got=f"{r.fraction:.3g}",
            where="Profile.roofline.fraction",
            mend="divide bound_seconds by the seconds that profile() is given",
        )


def analytic(subject: Subject) -> None:
    """Counters of bytes and launches agree with what a copy must do, and double with it."""
    held = False
    for key in ("copy", "copy_twice"):
        made, counted, n = _profile(subject, key)
        if "counters" in subject.device.capabilities and not counted["counters"]:
            raise fail(
                "a counter, since the device declares 'counters'",
                got="none",
                where="Runner.counters",
                mend="return the device's running totals, or leave 'counters' out of the capabilities",
            )
        held = held or any(name in made.counters for name in ANALYTIC)
        want = {"bytes_read": 4.0 * n, "bytes_written": 4.0 * n, "launches": 1.0}
        for name in ANALYTIC:
            got = made.counters.get(name)
            if got is not None and not _LOW * want[name] <= got <= _HIGH * want[name]:
                raise fail(
                    f"{name} of a copy of {n} float32 to be about {want[name]:g}",
                    got=f"{got:g} (probe '{key}')",
                    where="Profile.counters, Runner.counters",
                    mend="count what one call does; a name from "
                    f"{', '.join(ANALYTIC)} is in bytes (or calls) a call",
                )
    if not held:
        raise SkippedError(f"no counter is called {', '.join(ANALYTIC)}: nothing to hold against a copy")


def invented(subject: Subject) -> None:
    """Without counters from the worker, the profiler has none of the device's own."""
    given = subject.bench.call("counted", key="copy")
    p = subject.probes
    spec = subject.spec(p.elements)
    profiler = subject.backend.profiler(subject.device)
    assert profiler is not None
    artifact = subject.compile(p.copy)
    arguments = (spec, spec.cases[0], _work(p.elements), given["seconds"], artifact)
    without, again = profiler.profile(*arguments, {}), profiler.profile(*arguments, {})
    if dict(without.counters) != dict(again.counters):
        raise fail(
            "profile() to be a function of its arguments",
            got="two calls give different counters",
            where="Profiler.profile",
            mend="derive every counter from the arguments; nothing is measured here",
        )
    if made_up := sorted(set(without.counters) & (set(given["counters"]) | set(ANALYTIC))):
        raise fail(
            "no counter that the worker did not count",
            got=f"{made_up[0]} = {without.counters[made_up[0]]:g}, though no counters were given",
            where="Profile.counters",
            mend="pass on what Runner.counters() counted; what is estimated gets a name of its own",
        )
    told = profiler.profile(*arguments, {"kevolve_marker": 41.0})
    if told.counters.get("kevolve_marker") not in (None, 41.0):
        raise fail(
            "counters to be passed on as they are",
            got=f"41 became {told.counters['kevolve_marker']:g}",
            where="Profile.counters",
            mend="copy what was counted",
        )


CHECKS = (
    Check("profile.consistent", consistent, (1, 2), _PROFILE),
    Check("profile.analytic", analytic, (1, 2), _PROFILE),
    Check("profile.invented", invented, (1, 2), _PROFILE),
)
