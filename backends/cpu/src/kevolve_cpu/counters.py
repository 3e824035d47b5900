"""Counters of a process: the kernel's own accounting always, hardware counters where `perf` may read them."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Mapping

from attrs import field, frozen

from kevolve_core.model import freeze

__all__ = ["HARDWARE_EVENTS", "HardwareCounters", "parse_perf", "read_counters", "software_counters"]

#: perf's generic events (perf-list(1)); each means the nearest event of the CPU at hand.
HARDWARE_EVENTS = (
    "cycles",
    "instructions",
    "cache-references",
    "cache-misses",
    "branch-misses",
    "dTLB-load-misses",
)


@frozen
class HardwareCounters:
    """What perf counted, and if nothing, why not."""

    counts: Mapping[str, float] = field(factory=dict, converter=freeze, hash=False)
    unavailable: str = ""


def software_counters() -> Mapping[str, float]:
    """Running totals of this process: page faults, context switches, CPU seconds of all its threads.

    Take them before and after a number of calls and divide the difference by it (see getrusage(2)).
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "minor_faults": float(usage.ru_minflt),
        "major_faults": float(usage.ru_majflt),
        "voluntary_switches": float(usage.ru_nvcsw),
        "involuntary_switches": float(usage.ru_nivcsw),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def read_counters(pid: int, seconds: float) -> HardwareCounters:
    """Hardware counters of process ``pid`` (all its threads) over ``seconds``, through ``perf stat``.

    Never raises for what the host does not offer: no perf, a kernel that forbids it, a virtual machine
    without counters. ``unavailable`` then says which.
    """
    perf = shutil.which("perf")
    if perf is None:
        return HardwareCounters(unavailable="perf is not installed (Debian `linux-perf`, Fedora `perf`)")
    command = [perf, "stat", "-x", ";", "-e", ",".join(HARDWARE_EVENTS), "-p", str(pid)]
    command += ["--", "sleep", f"{seconds:.3f}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
    except subprocess.TimeoutExpired:
        return HardwareCounters(unavailable="perf stat did not end")
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip() and line.strip() != "Error:"]
        return HardwareCounters(unavailable=f"perf stat: {lines[0].strip() if lines else 'failed'}")
    return parse_perf(done.stderr)


def parse_perf(text: str) -> HardwareCounters:
    """Counts from the output of ``perf stat -x ';'`` (perf-stat(1), CSV format); perf has scaled them to the
    full time where events shared a counter."""
    counts = {}
    missing = []
    for line in text.splitlines():
        fields = line.split(";")
        if len(fields) < 5 or line.startswith("#"):
            continue
        value, event = fields[0], fields[2].partition(":")[0]
        if value.startswith("<"):
            missing.append(f"{event} {value.strip('<>')}")
        else:
            counts[event.replace("-", "_")] = float(value.replace(",", "."))
    if counts:
        return HardwareCounters(counts)
    return HardwareCounters(unavailable="hardware counters: " + (", ".join(missing) or "perf printed none"))
