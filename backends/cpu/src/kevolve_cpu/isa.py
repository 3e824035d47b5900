"""The instruction set of the host, as a recordable architecture and the compiler flags that select it.

``-march=native`` is not used: it means another thing on every machine and misnames virtual CPUs, whose model
number is often not that of the hardware below. The flags here follow from the CPU's own feature list.
"""

from __future__ import annotations

__all__ = [
    "arch_of", "extensions_of", "flags_for", "host_arch", "host_extensions", "host_features", "vector_bytes",
]  # fmt: skip

# --- carried by exported kernels from here on ---
import platform
from functools import cache
from pathlib import Path

#: Features of each level, by /proc/cpuinfo name (x86-64 psABI, table "Micro-Architecture Levels").
_LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"})),
    ("x86-64-v3", frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})),
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
)

#: What a level does not include and a kernel can use: /proc/cpuinfo name -> compiler option.
_EXTENSIONS = {
    "avx_vnni": "-mavxvnni",
    "avx512_vnni": "-mavx512vnni",
    "avx512_bf16": "-mavx512bf16",
    "avx512_fp16": "-mavx512fp16",
    "avx512vbmi": "-mavx512vbmi",
    "avx512_vbmi2": "-mavx512vbmi2",
    "avx512_vpopcntdq": "-mavx512vpopcntdq",
    "avx512_bitalg": "-mavx512bitalg",
    "avx512ifma": "-mavx512ifma",
    "gfni": "-mgfni",
    "amx_tile": "-mamx-tile",
    "amx_int8": "-mamx-int8",
    "amx_bf16": "-mamx-bf16",
}


@cache
def host_features() -> frozenset[str]:
    """Names on the ``flags`` (x86) or ``Features`` (Arm) line of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def arch_of(machine: str, features: frozenset[str]) -> str:
    """``x86-64`` … ``x86-64-v4`` for an x86 CPU with these features, else the machine's own name."""
    if machine not in ("x86_64", "AMD64"):
        return machine
    arch = "x86-64"
    for name, needed in _LEVELS:
        if not needed <= features:
            break
        arch = name
    return arch


def extensions_of(features: frozenset[str]) -> tuple[str, ...]:
    """Compiler options for what ``features`` has beyond its level, in a fixed order."""
    return tuple(option for name, option in _EXTENSIONS.items() if name in features)


def host_arch() -> str:
    return arch_of(platform.machine(), host_features())


def host_extensions() -> tuple[str, ...]:
    return extensions_of(host_features()) if host_arch() == "x86-64-v4" else ()


def vector_bytes(arch: str) -> int:
    """Width of the widest vector registers of ``arch``."""
    return {"x86-64-v4": 64, "x86-64-v3": 32}.get(arch, 16)


def flags_for(arch: str, extensions: tuple[str, ...]) -> tuple[str, ...] | None:
    """Compiler options that select ``arch``, None where this host's compiler cannot make code for it."""
    if arch.startswith("x86-64") and platform.machine() in ("x86_64", "AMD64"):
        wide = ("-mprefer-vector-width=512",) if arch == "x86-64-v4" else ()
        return (f"-march={arch}", *extensions, *wide)
    if arch == platform.machine():
        return ("-mcpu=native",)
    return None
