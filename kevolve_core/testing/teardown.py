"""What is left when a worker is gone: no process, no file, and no memory of the candidates before."""

from __future__ import annotations

import time

from kevolve_core.testing.bench import BenchClient
from kevolve_core.testing.checks import Check, fail
from kevolve_core.testing.leftovers import files_left, processes_of
from kevolve_core.testing.subject import Subject

__all__ = ["CHECKS"]

_CYCLES, _MOST_CYCLES = 24, 200
#: Resident bytes a runner may gain that are no buffers: allocators' pools, imports (estimated).
_SLACK = 48 << 20
_RUN = frozenset({"compile", "run"})


def reset(subject: Subject) -> None:
    """reset() frees what a candidate used: memory does not grow with the candidates a worker has seen."""
    p = subject.probes
    one = 8 * p.elements
    # Where every launch waits in a queue, only a leak of large buffers is waited for.
    repeats = 4 if subject.queue_seconds else min(_MOST_CYCLES, max(_CYCLES, 4 * _SLACK // one))
    # A process of its own: in one with a history, a leak first fills what the heap already holds.
    workdir = subject.workdir / "growth"
    client = BenchClient(subject.ref, subject.device, subject.manifest, workdir, isolated=True)
    try:
        client.load("copy", p.copy, subject.compile(p.copy), p.elements)
        found = client.call("growth", repeats=repeats)
    finally:
        client.close()
    if found["bytes"] > max(_SLACK, 0.25 * found["one"] * found["repeats"]):
        raise fail(
            f"memory to stay about as it is over {repeats} loads, calls and resets",
            got=f"{found['bytes'] / 1e6:.0f} MB more, {found['one'] / 1e6:.1f} MB of buffers a call",
            where="Runner.reset, Runner.upload",
            mend="keep no reference to buffers, outputs or modules beyond reset()",
        )


def gone(subject: Subject) -> None:
    """After a worker is ended, no process of it is left and no file outside its scratch folder."""
    p = subject.probes
    workdir = subject.workdir / "lifecycle"
    client = BenchClient(subject.ref, subject.device, subject.manifest, workdir, isolated=True)
    try:
        client.load("copy", p.copy, subject.compile(p.copy), p.elements)
        client.call("copies", key="copy")
        written = client.written()
    finally:
        client.close()
    time.sleep(0.1)  # a killed process takes a moment to go
    if left := processes_of(workdir):
        raise fail(
            "no process to outlive its worker",
            got=f"{len(left)} left: {left[0]}",
            where="Runner.open or load",
            mend="start helpers in the worker's own process group, and let them end with their parent "
            "(prctl PR_SET_PDEATHSIG, or a pipe that closes)",
        )
    if files := files_left(written, workdir):
        raise fail(
            "no file to be left outside the worker's scratch folder",
            got=", ".join(files[:3]),
            where="Runner.open or load",
            mend="write below the workdir that open() is given, or TMPDIR, which are removed; what is to be "
            "kept "
            "belongs in the user's cache folder",
        )


CHECKS = (
    Check("teardown.reset", reset, (1, 2), _RUN),
    Check("teardown.gone", gone, (1, 2), _RUN),
)
