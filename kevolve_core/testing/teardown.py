"""What is left when a worker is gone: no process, no file, and no memory of the candidates before."""

from __future__ import annotations

import time

from kevolve_core.testing.bench import BenchClient
from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.leftovers import Leftovers
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_CYCLES = 24
#: Resident bytes a runner may gain that are no buffers: allocators' pools, imports (estimated).
_SLACK = 48 << 20
_RUN = frozenset({"compile", "run"})


def reset(subject: Subject) -> None:
    """reset() frees what a candidate used: memory does not grow with the candidates a worker has seen."""
    found = subject.bench.call("growth", repeats=_CYCLES)
    if found["bytes"] > max(_SLACK, 0.5 * found["one"] * found["repeats"]):
        raise fail(
            f"memory to stay about as it is over {_CYCLES} loads, calls and resets",
            got=f"{found['bytes'] / 1e6:.0f} MB more, {found['one'] / 1e6:.1f} MB of buffers a call",
            where="Runner.reset, Runner.upload",
            mend="keep no reference to buffers, outputs or modules beyond reset()",
        )


def _lifecycle(subject: Subject) -> None:
    """A worker that opens the device, copies once and is ended."""
    p = subject.probes
    client = BenchClient(
        subject.ref, subject.device, subject.manifest, subject.workdir / "lifecycle", isolated=True
    )
    try:
        client.load("copy", p.copy, subject.compile(p.copy), p.elements)
        client.call("copies", key="copy")
    finally:
        client.close()


def gone(subject: Subject) -> None:
    """After a worker is ended, no process of it is left and no file outside its scratch folder."""
    seen = subject.leftovers
    before = seen.entries()
    _lifecycle(subject)
    time.sleep(0.1)  # a killed process takes a moment to go
    scratch = str(subject.workdir / "lifecycle")
    if left := [line for line in Leftovers(subject.workdir / "lifecycle").processes() if scratch]:
        raise fail(
            "no process to outlive its worker",
            got=f"{len(left)} left: {left[0]}",
            where="Runner.open or load",
            mend="start helpers in the worker's own process group, and let them end with their parent "
            "(prctl PR_SET_PDEATHSIG, or a pipe that closes)",
        )
    after = seen.entries()
    new = Leftovers.stems(after - before)
    if not new:
        return
    _lifecycle(subject)  # what other programs leave meanwhile is another thing each time
    again = Leftovers.stems(seen.entries() - after)
    if common := sorted(set(new) & set(again)):
        raise fail(
            "no file to be left in shared folders",
            got=f"{new[common[0]]}, then {again[common[0]]}",
            where="Runner.open or load",
            mend="write below the workdir that open() is given, or TMPDIR; both are removed",
        )


CHECKS = (
    Check("teardown.reset", reset, (1, 2), _RUN),
    Check("teardown.gone", gone, (1, 2), _RUN),
)
