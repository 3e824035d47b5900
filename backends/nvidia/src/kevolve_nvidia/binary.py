"""What a cubin says of itself: registers, spills, shared memory, and which instructions it is made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kevolve_nvidia.architectures import Architecture, occupancy
from kevolve_nvidia.tools import run_tool

__all__ = ["kernel_facts", "ptx_mix", "resource_usage", "sass_mix", "sass_of"]

#: Class of instructions -> pattern of SASS opcodes (NVIDIA, CUDA Binary Utilities, Instruction Set
#: Reference). An opcode counts once, in the first class that it matches.
_SASS_CLASSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("tensor", r"(HGMMA|QGMMA|IGMMA|BGMMA|HMMA|IMMA|DMMA|BMMA|QMMA|OMMA|UTC\w*MMA)"),
        ("tensor_copy", r"(UTMALDG|UTMASTG|UTMAREDG|UBLKCP|UBLKRED|UTMAPF)"),
        ("async_copy", r"LDGSTS"),
        ("local", r"(LDL|STL)"),
        ("load_global", r"(LDG|LD)(\.|$)"),
        ("store_global", r"(STG|ST)(\.|$)"),
        ("atomic", r"(ATOM|ATOMG|ATOMS|RED|REDG)(\.|$)"),
        ("load_shared", r"(LDS|LDSM)(\.|$)"),
        ("store_shared", r"(STS|STSM)(\.|$)"),
        ("barrier", r"(BAR|SYNCS|WARPSYNC|DEPBAR|WARPGROUP|UCGABAR\w*)"),
        ("shuffle", r"(SHFL|REDUX|VOTE\w*)"),
        ("special", r"MUFU"),
        ("float64", r"(DFMA|DADD|DMUL|DSETP)"),
        ("float32", r"(FFMA|FADD|FMUL|FSETP|FMNMX|FSEL)"),
        ("float16", r"(HFMA2|HADD2|HMUL2|HMNMX2|HSET\w*)"),
        ("convert", r"(F2F\w*|F2I|I2F|I2I|F2FP|I2FP|FRND)"),
        ("branch", r"(BRA|BRX|EXIT|CALL|RET|BSSY|BSYNC|BREAK)"),
    )
)
_PTX = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z][a-z0-9_]*(?:\.[a-z0-9_:]+)*)\s", re.MULTILINE)
_PTX_CLASSES: tuple[tuple[str, str], ...] = (
    ("wgmma", "wgmma.mma"), ("tcgen05", "tcgen05.mma"), ("mma", "mma."), ("wmma", "wmma.mma"),
    ("bulk_copy", "cp.async.bulk"), ("async_copy", "cp.async"), ("load_global", "ld.global"),
    ("store_global", "st.global"), ("load_shared", "ld.shared"), ("store_shared", "st.shared"),
    ("local", "ld.local"), ("local", "st.local"), ("atomic", "atom."), ("atomic", "red."), ("barrier", "bar"),
    ("shuffle", "shfl"), ("fma", "fma."), ("divide", "div."), ("special", "ex2."), ("special", "lg2."),
    ("special", "sqrt."), ("special", "rsqrt."), ("special", "sin."), ("special", "cos."),
    ("special", "tanh."),
)  # fmt: skip
_USAGE = re.compile(r"Function (\S+):\s*\n\s*(.*)")


def resource_usage(cubin: Path) -> dict[str, dict[str, int]]:
    """Kernel -> ``registers``, ``stack_bytes``, ``shared_bytes``, ``local_bytes``, as cuobjdump reads them
    from the file; {} without that tool."""
    names = {"REG": "registers", "STACK": "stack_bytes", "SHARED": "shared_bytes", "LOCAL": "local_bytes"}
    found: dict[str, dict[str, int]] = {}
    for kernel, line in _USAGE.findall(run_tool("cuobjdump", "-res-usage", str(cubin))):
        values = dict(word.split(":", 1) for word in line.split() if ":" in word)
        found[kernel] = {name: int(values[key]) for key, name in names.items() if key in values}
    return found


def sass_of(cubin: Path) -> str:
    """The machine code as text; "" without nvdisasm."""
    return run_tool("nvdisasm", "-c", str(cubin))


def sass_mix(text: str) -> dict[str, int]:
    """Instructions by class in a disassembly (static counts), with ``instructions`` their total,
    ``wide_load_global`` and ``wide_store_global`` those of 16 bytes a thread, and ``spill`` loads and stores
    of local memory."""
    counts: Counter[str] = Counter()
    for opcode in re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE):
        if opcode == "NOP" or opcode.startswith("NOP."):
            continue
        counts["instructions"] += 1
        kind = next((name for name, pattern in _SASS_CLASSES if pattern.match(opcode)), "other")
        counts[kind] += 1
        if kind in ("load_global", "store_global") and re.search(r"\.(128|256)", opcode):
            counts[f"wide_{kind}"] += 1
        if kind == "tensor":
            counts[f"tensor_{opcode.split('.')[0].lower()}"] += 1
    return dict(sorted(counts.items()))


def ptx_mix(text: str) -> dict[str, int]:
    """Instructions by class in PTX, with ``instructions`` their total."""
    counts: Counter[str] = Counter()
    body = re.sub(r"//[^\n]*", "", text)
    for opcode in _PTX.findall(body):
        counts["instructions"] += 1
        kind = next((name for name, prefix in _PTX_CLASSES if opcode.startswith(prefix)), "")
        if kind:
            counts[kind] += 1
            if kind in ("load_global", "store_global") and ".v4" in opcode:
                counts[f"wide_{kind}"] += 1
    return dict(sorted(counts.items()))


def kernel_facts(
    cubin: Path, arch: Architecture, *, threads: Mapping[str, int], shared: Mapping[str, int], ptx: str = ""
) -> dict[str, dict[str, Any]]:
    """Facts of every kernel in ``cubin``.

    Args:
        cubin: the file.
        arch: for which occupancy is worked out.
        threads: kernel -> threads a block, where known; without, occupancy is left out.
        shared: kernel -> dynamic shared memory in bytes, beside what the file itself reserves.
        ptx: the text that the file was assembled from.
    """
    mix = sass_mix(sass_of(cubin))
    facts: dict[str, dict[str, Any]] = {}
    for kernel, usage in resource_usage(cubin).items():
        # cuobjdump counts the KiB that the system keeps of each block among SHARED from sm_90 on.
        own = max(0, usage.get("shared_bytes", 0) - (1024 if arch.capability >= 90 else 0))
        known: dict[str, Any] = {**usage, "shared_bytes": own + shared.get(kernel, 0)}
        # A stack frame that no instruction touches is no spill; without a disassembly it is taken for one.
        touched = not mix or mix.get("local", 0)
        known["spill_bytes"] = (usage.get("local_bytes", 0) or usage.get("stack_bytes", 0)) if touched else 0
        if kernel in threads:
            fits = occupancy(arch, threads[kernel], usage.get("registers", 0), known["shared_bytes"])
            known |= {
                "threads_per_block": threads[kernel],
                "occupancy": round(fits.fraction, 4),
                "blocks_per_multiprocessor": fits.blocks,
                "occupancy_limit": fits.limit,
            }
        facts[kernel] = known | ({"sass": mix} if mix else {}) | ({"ptx": ptx_mix(ptx)} if ptx else {})
    return facts
