"""What this machine is: read from the kernel in milliseconds, never measured here (see `peaks`)."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from kevolve_cpu.isa import host_arch, host_extensions, host_features, vector_bytes
from kevolve_cpu.settings import available_cpus

__all__ = ["FALLBACK_LLC_BYTES", "caches", "host_facts", "product_name"]

#: Last-level cache assumed where the kernel names none (some virtual machines); `estimated`, on the large
#: side because a flush that is too small lets a timing profit from a warm cache.
FALLBACK_LLC_BYTES = 64 << 20

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def product_name() -> str:
    """The CPU's name as it gives it, else the machine's architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return " ".join(value.split())
    return platform.machine()


def caches(root: Path = Path("/sys/devices/system/cpu")) -> dict[str, int]:
    """Bytes of data cache by level, summed over the instances that this process's CPUs use.

    ``{"l1d": …, "l2": …, "l3": …}``; levels that the kernel does not describe are absent.
    """
    found: dict[tuple[str, str], int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        for index in sorted((root / f"cpu{cpu}" / "cache").glob("index[0-9]*")):
            try:
                kind = (index / "type").read_text().strip()
                level = (index / "level").read_text().strip()
                size = _size((index / "size").read_text().strip())
                shared = (index / "shared_cpu_list").read_text().strip()
            except (OSError, ValueError):
                continue  # an entry without a size says nothing
            if kind != "Instruction":
                found[f"l{level}d" if level == "1" else f"l{level}", shared] = size
    totals: dict[str, int] = {}
    for (level, _), size in found.items():
        totals[level] = totals.get(level, 0) + size
    return totals


def host_facts() -> dict[str, Any]:
    """Cores, caches, instruction set and page settings; sizes in bytes."""
    features = host_features()
    known = caches()
    return {
        "cpus": available_cpus(),
        "cpus_online": os.cpu_count() or 1,
        "arch": host_arch(),
        "isa": sorted(f for f in features if f.startswith(("avx", "amx", "fma", "sve", "asimd", "f16c"))),
        "extensions": list(host_extensions()),
        "vector_bytes": vector_bytes(host_arch()),
        "cache_bytes": known,
        "llc_bytes": max(known.values(), default=FALLBACK_LLC_BYTES),
        "llc_evidence": "measured" if known else "estimated",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        # oneDNN has kernels for both and repacks other orders inside a call: channels last gains on whole
        # networks and loses on a convolution alone. `estimated`, from single runs on two cores.
        "convolution_layouts": ["channels_last", "contiguous"],
        "convolution_converts": True,
        # A generated sum over windows is faster for a depthwise convolution of 3 x 3 (1.2 to 1.7 times), and
        # 30 times slower for one of 7 x 7. `estimated`, likewise.
        "depthwise_convolutions": "library",
        "transparent_hugepages": _chosen(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "numa_nodes": max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))),
    }


def _size(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)


def _chosen(path: Path) -> str:
    """The bracketed word of a sysfs choice, ``unknown`` where the kernel has no such file."""
    try:
        return path.read_text().partition("[")[2].partition("]")[0] or "unknown"
    except OSError:
        return "unknown"
