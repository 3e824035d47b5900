"""The host's ceilings, measured once and kept: memory rates, float32 FMA rate, cost of a call."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from kevolve_core.errors import KevolveError
from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.model import Candidate, Device, Evidence, content_hash
from kevolve_cpu.compiler import CppCompiler
from kevolve_cpu.settings import Settings

__all__ = ["Peaks", "cached_peaks", "measure_peaks"]

_ROUNDS = 7
_TIMEOUT_S = 120
#: Each of the two arrays is this many times the last-level cache, and at least so large: nothing is reused
#: from the cache (STREAM asks for four times in all).
_ARRAY_OVER_LLC = 2
_LEAST_ARRAY_BYTES = 64 << 20

#: Run by a fresh interpreter: the caller's process gets no OpenMP pool and keeps none of the memory.
_PROGRAM = """
import ctypes, json, sys, time
library = ctypes.CDLL(sys.argv[1])
library.measure.argtypes = [ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p]
out = (ctypes.c_double * 5)()
library.measure(int(sys.argv[2]), int(sys.argv[3]), ctypes.addressof(out))
empty = library.nothing
empty.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
empty.restype = None
least = 1.0
for _ in range(2000):
    start = time.perf_counter()
    empty(64, 64, 64, 1)
    least = min(least, time.perf_counter() - start)
print(json.dumps([*out, least]))
"""


@frozen
class Peaks:
    """Ceilings of one host and thread count. Bytes are those a program asks for: a copy counts each twice.

    Args:
        copy_bytes_per_s: plain stores, which read a line before they fill it.
        nontemporal_copy_bytes_per_s: stores that bypass the caches.
        read_bytes_per_s: reading only.
        fma_float32_flops_per_s: every thread in fused multiply-adds at full vector width.
        parallel_region_seconds: an empty OpenMP region.
        call_seconds: an empty native function with four arguments, called from Python.
        threads: how many.
        date: ISO date of the measurement.
        evidence: ``measured``.
    """

    copy_bytes_per_s: float
    nontemporal_copy_bytes_per_s: float
    read_bytes_per_s: float
    fma_float32_flops_per_s: float
    parallel_region_seconds: float
    call_seconds: float
    threads: int
    date: str
    evidence: str = Evidence.MEASURED.value

    @property
    def peak_bytes_per_s(self) -> float:
        """The best of the three memory rates: no kernel moves more from and to memory."""
        return max(self.copy_bytes_per_s, self.nontemporal_copy_bytes_per_s, self.read_bytes_per_s)

    def on(self, device: Device) -> Device:
        """``device`` with these rates in its facts, and the three that a time floor is made of by their
        general names: ``peak_bytes_per_s``, ``peak_flops_per_s``, ``launch_seconds``."""
        general = {
            "peak_bytes_per_s": self.peak_bytes_per_s,
            "peak_flops_per_s": self.fma_float32_flops_per_s,
            "launch_seconds": self.call_seconds,
        }
        return attrs.evolve(device, facts={**device.facts, **general, "peaks": attrs.asdict(self)})


def cached_peaks(device: Device, settings: Settings) -> Peaks | None:
    """What `measure_peaks` found earlier on this host with these threads; None if it has not run."""
    try:
        return Peaks(**json.loads(_file(device, settings).read_text()))
    except (OSError, ValueError, TypeError):
        return None  # not measured yet, or written by another version


def measure_peaks(device: Device, settings: Settings, *, refresh: bool = False) -> Peaks:
    """The host's ceilings, measured with every thread in a process of its own unless they are cached.

    A value is the best of several rounds. Still, a host that is busy throughout gives low ceilings:
    ``refresh`` measures again and keeps the better of old and new.

    Raises:
        ToolchainMissingError: no compiler.
        KevolveError: the measuring program failed.
    """
    known = cached_peaks(device, settings)
    if known is not None and not refresh:
        return known
    source = Path(__file__).with_name("peaks.cpp").read_text()
    candidate = Candidate({"peaks.cpp": source, "peaks.py": ""}, entry="peaks.py", language="cpp")
    spec = KernelSpec("peaks", Reference("", ""), (Case("all"),))
    artifact = CppCompiler(settings).compile(candidate, spec, spec.cases[0], device.target)
    size = max(_LEAST_ARRAY_BYTES, _ARRAY_OVER_LLC * int(device.facts["llc_bytes"]))
    size = min(size, int(device.facts["memory_bytes"]) // 8) >> 12 << 12
    values = _run(artifact.binaries["peaks.cpp"], size, settings.thread_count)
    peaks = Peaks(*values, settings.thread_count, datetime.date.today().isoformat())
    if known is not None:
        peaks = _better(known, peaks)
    _save(peaks, _file(device, settings))
    return peaks


def _better(one: Peaks, other: Peaks) -> Peaks:
    best: dict[str, Any] = attrs.asdict(other)
    for name in best:
        if name.endswith(("_per_s", "_seconds")):
            choose = min if name.endswith("_seconds") else max
            best[name] = choose(getattr(one, name), getattr(other, name))
    return Peaks(**best)


def _run(library: str, array_bytes: int, threads: int) -> tuple[float, float, float, float, float, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-I", "-c", _PROGRAM, library, str(array_bytes), str(_ROUNDS)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise KevolveError(
            f"measuring the host's rates did not end within {_TIMEOUT_S} s",
            where="cpu backend",
            mend="try again on an idle machine",
        ) from error
    if done.returncode != 0:
        raise KevolveError(
            "measuring the host's rates failed",
            got=done.stderr.strip()[-300:] or f"exit status {done.returncode}",
            where="cpu backend",
            mend=f"about {2 * array_bytes >> 20} MiB of free memory are needed",
        )
    copy, streamed, read, fma, region, call = json.loads(done.stdout)
    if not all(value > 0 for value in (copy, streamed, read, fma, region, call)):
        raise KevolveError(
            "measuring the host's rates failed",
            got="the arrays could not be allocated",
            where="cpu backend",
            mend=f"about {2 * array_bytes >> 20} MiB of free memory are needed",
        )
    return copy, streamed, read, fma, region, call


def _file(device: Device, settings: Settings) -> Path:
    names = ("arch", "cpus", "cache_bytes", "memory_bytes")
    host = content_hash([device.name, os.uname().nodename, {name: device.facts.get(name) for name in names}])
    return settings.cache / "peaks" / f"{host[:16]}-{settings.thread_count}.json"


def _save(peaks: Peaks, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(attrs.asdict(peaks), indent=1))
    os.replace(draft, path)
