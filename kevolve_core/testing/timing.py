"""Times one can believe: twice the work takes twice as long, nothing takes the floor, and waiting is
waiting."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from kevolve_core.evaluate.lock import timing
from kevolve_core.interfaces import Work
from kevolve_core.testing.checks import Check, SkippedError, fail
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_ROUNDS, _CALLS, _SECONDS = 5, 4, 20.0
#: Times are taken so often before a ratio is called wrong: a wrong clock is wrong every time, a busy host
#: is not.
_TRIES = 4
#: Twice the work, less the launch, may take between these many times as long (estimated: caches and noise).
_DOUBLE = (1.5, 2.8)
#: An empty kernel's share of the copy's time at most (estimated).
_EMPTY = 0.5
#: A simulated copy takes at most so many times its floor: a wrong unit is more (estimated).
_SLOWEST = 300.0
#: A reported time is at least this share of the wall time of a call that waits for its end, on a device
#: without a queue, beyond an overhead of the call (estimated).
_WALL, _OVERHEAD = 0.5, 200e-6
_TIME = frozenset({"compile", "run", "time"})


def _times(subject: Subject, *, more: bool = False) -> Mapping[str, Mapping[str, list[float]]]:
    """Seconds of the three good probes, taken once a subject; with ``more``, as many again beside them."""
    if subject.times is None or more:
        rounds, calls = (1, 3) if subject.queue_seconds else (_ROUNDS, _CALLS)
        with timing(subject.device):
            taken = subject.bench.call(
                "times", keys=("copy", "copy_twice", "empty"), rounds=rounds, calls=calls, seconds=_SECONDS
            )
        before = subject.times or {}
        subject.times = {
            clock: {key: [*before.get(clock, {}).get(key, ()), *values] for key, values in found.items()}
            for clock, found in taken.items()
        }
    return subject.times


def _medians(subject: Subject) -> tuple[float, float, float]:
    seconds = _times(subject)["device"]
    for key, values in seconds.items():
        if bad := [v for v in values if not 0.0 < v < float("inf")]:
            raise fail(
                "seconds above zero for every call",
                got=f"{bad[0]!r} s for probe '{key}'",
                where="Runner.elapsed",
                mend="mark start and end on the device's own clock, the end after all work given so far",
            )
    return median(seconds["copy"]), median(seconds["copy_twice"]), median(seconds["empty"])


def doubles(subject: Subject) -> None:
    """A copy of twice the size takes about twice the time."""
    _medians(subject)
    for attempt in range(_TRIES):
        # The least disturbed call of each: whatever else a host does only adds to a time.
        seconds = _times(subject, more=attempt > 0)["device"]
        one, two, empty = (min(seconds[key]) for key in ("copy", "copy_twice", "empty"))
        ratio = (two - empty) / (one - empty) if one > empty else 0.0
        if _DOUBLE[0] <= ratio <= _DOUBLE[1]:
            return
    if one <= empty:
        raise fail(
            "a copy to take longer than an empty kernel",
            got=f"{one:.3g} s and {empty:.3g} s",
            where="Runner.timestamp, Runner.elapsed",
            mend="time the work and not the launch; a larger ProbeKernels.elements separates the two",
        )
    raise fail(
        f"copy_twice to take {_DOUBLE[0]} to {_DOUBLE[1]} times as long as copy, less an empty kernel's time",
        got=f"{ratio:.2f} times: copy {one:.3g} s, copy_twice {two:.3g} s, empty {empty:.3g} s",
        where="Runner.timestamp, Runner.elapsed",
        mend="take both marks on the device's clock, after synchronising; if the clock is right, choose "
        "ProbeKernels.elements so that both copies lie in the same level of memory",
    )


def near_floor(subject: Subject) -> None:
    """An empty kernel takes little, and no honest kernel is faster than the floor, nor a thousand times
    slower."""
    one, _, empty = _medians(subject)
    if empty > _EMPTY * one:
        raise fail(
            f"an empty kernel to take at most {_EMPTY:.0%} of a copy's time",
            got=f"{empty:.3g} s against {one:.3g} s",
            where="Runner.timestamp, Runner.elapsed",
            mend="keep what is not the kernel (transfers, the queue, host code) outside the two marks; if "
            "the "
            "launch is that slow, choose a larger ProbeKernels.elements",
        )
    profiler = subject.backend.profiler(subject.device) if "profile" in subject.device.capabilities else None
    if profiler is None:
        return
    nbytes = 8.0 * subject.probes.elements
    for what, seconds, work in (
        ("an empty kernel", empty, Work(0.0, 0.0)),
        ("a copy", one, Work(nbytes, 0.0)),
    ):
        floor = profiler.floor(work)
        if not 0.0 <= floor < float("inf") or seconds < 0.8 * floor:
            raise fail(
                f"the floor to lie under the time of {what}: honest kernels under it are rejected",
                got=f"floor {floor:.3g} s, measured {seconds:.3g} s",
                where="Profiler.floor",
                mend="compulsory bytes over the best bandwidth that was measured, plus the shortest launch",
            )
    # No clock of this machine tells a simulator's milliseconds from seconds; its own ceilings do.
    if not subject.measured and one > _SLOWEST * floor > 0.0:
        raise fail(
            f"a copy to take at most {_SLOWEST:.0f} times its floor",
            got=f"{one:.3g} s, and a floor of {floor:.3g} s",
            where="Runner.elapsed, Profiler.floor",
            mend="return seconds, and give the ceilings in bytes and operations a second",
        )


def synchronised(subject: Subject) -> None:
    """synchronize() returns when the work has ended: nothing is left for a download to wait for."""
    rounds = 1 if subject.queue_seconds else 7
    with timing(subject.device):
        found = subject.bench.call("pending", key="copy_twice", rounds=rounds)
    work = found["forced"] - found["transfer"]
    mend = (
        "wait in synchronize() for everything given to the device, on every stream or queue, and resolve "
        "marks "
        "only then"
    )
    if found["reported"] < 0.4 * work:
        raise fail(
            "a call to take as long when it is ended by synchronize as when it is ended by a download",
            got=f"{found['reported']:.3g} s, against {work:.3g} s beyond the transfer itself",
            where="Runner.synchronize",
            mend=mend,
        )
    left = found["first"] - found["second"]
    if left > max(0.5 * (found["call"] + left), 2e-4):
        raise fail(
            "a download right after synchronize to find nothing left to do",
            got=f"the first took {left:.3g} s longer than a second one of the same buffer; the call and "
            f"synchronize took {found['call']:.3g} s",
            where="Runner.synchronize",
            mend=mend,
        )


def by_the_wall(subject: Subject) -> None:
    """Measured times agree with this machine's clock."""
    if not subject.measured:
        raise SkippedError(f"times are {subject.manifest.evidence}: no clock of this machine measures them")
    _medians(subject)
    times = _times(subject)
    for key in ("copy", "copy_twice"):
        reported, wall = times["device"][key], times["wall"][key]
        if any(r > w * 1.01 + 1e-6 for r, w in zip(reported, wall, strict=True)):
            raise fail(
                f"probe '{key}' to report no more time than passed",
                got=f"{max(reported):.3g} s reported, {min(wall):.3g} s passed",
                where="Runner.elapsed",
                mend="return seconds, from the clock that the marks were taken on",
            )
        if subject.queue_seconds:
            continue  # what else passed was the queue's
        # The least disturbed call: waking up from a wait is nobody's time.
        gap = min(w - r for r, w in zip(reported, wall, strict=True))
        if gap > _OVERHEAD + (1 / _WALL - 1) * median(reported):
            raise fail(
                f"probe '{key}' to report most of the time that passed while it was waited for",
                got=f"{median(reported):.3g} s reported, {median(wall):.3g} s passed",
                where="Runner.elapsed; Manifest.evidence",
                mend="time what runs on the device; a simulator's evidence is 'simulated', and a device "
                "behind "
                'a queue says so: needs={"run": {"queue": seconds}}',
            )


CHECKS = (
    Check("timing.doubles", doubles, (1, 2), _TIME),
    Check("timing.floor", near_floor, (1, 2), _TIME),
    Check("timing.synchronised", synchronised, (1, 2), _TIME),
    Check("timing.wall", by_the_wall, (1, 2), _TIME),
)
