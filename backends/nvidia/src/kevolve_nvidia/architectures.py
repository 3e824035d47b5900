"""NVIDIA architectures: names, the limits that occupancy follows from, and theoretical occupancy.

Limits are those of the CUDA C++ Programming Guide, section Compute Capabilities, table "Technical
Specifications per Compute Capability"; allocation granularities are those of the CUDA Occupancy Calculator
(registers a warp in units of 256, shared memory in units of 128 bytes, 1 KiB a block kept by the system since
compute capability 8.0).
"""

from __future__ import annotations

import re

from attrs import frozen

from kevolve_core.errors import ConfigError, suggest

__all__ = ["ARCHITECTURES", "Architecture", "Occupancy", "architecture", "name_of", "occupancy"]

_REGISTER_UNIT = 256
_SHARED_UNIT = 128
_RESERVED_SHARED = 1024
_WARP = 32


@frozen
class Architecture:
    """Limits of one multiprocessor. ``capability`` is major·10 + minor; sizes in bytes."""

    capability: int
    family: str
    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65536
    registers_per_thread: int = 255

    @property
    def shared_per_block(self) -> int:
        """The most that one block may ask for, by opting in."""
        return self.shared_bytes - _RESERVED_SHARED

    @property
    def name(self) -> str:
        return name_of(self.capability)


#: By compute capability (major·10 + minor).
ARCHITECTURES: dict[int, Architecture] = {
    a.capability: a
    for a in (
        Architecture(75, "Turing", 32, 16, 65 << 10),
        Architecture(80, "Ampere", 64, 32, 164 << 10),
        Architecture(86, "Ampere", 48, 16, 100 << 10),
        Architecture(87, "Ampere", 48, 16, 164 << 10),
        Architecture(89, "Ada", 48, 24, 100 << 10),
        Architecture(90, "Hopper", 64, 32, 228 << 10),
        Architecture(100, "Blackwell", 64, 32, 228 << 10),
        Architecture(103, "Blackwell", 64, 32, 228 << 10),
        Architecture(110, "Blackwell", 48, 24, 228 << 10),
        Architecture(120, "Blackwell", 48, 24, 100 << 10),
        Architecture(121, "Blackwell", 48, 24, 100 << 10),
    )
}


def name_of(capability: int) -> str:
    """What compilers call it: ``sm_80``, and ``sm_90a`` from Hopper on, whose own instructions need the
    suffix."""
    return f"sm_{capability}{'a' if capability >= 90 else ''}"


def architecture(name: str) -> Architecture:
    """The architecture called ``name`` (``sm_80``, ``sm_90``, ``sm_90a``).

    Raises:
        ConfigError: it is none that this backend knows.
    """
    match = re.fullmatch(r"sm_(\d+)[af]?", name)
    found = ARCHITECTURES.get(int(match[1])) if match else None
    if found is None:
        names = [a.name for a in ARCHITECTURES.values()]
        raise ConfigError(
            "this is no architecture of the nvidia backend",
            got=name,
            mend=suggest(name, names) or f"architectures are: {', '.join(names)}",
        )
    return found


@frozen
class Occupancy:
    """Theoretical occupancy of a kernel: warps a multiprocessor holds over those it could, and what limits
    them (``registers``, ``shared memory``, ``blocks`` or ``warps``)."""

    fraction: float
    blocks: int
    limit: str


def occupancy(arch: Architecture, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Blocks of ``threads`` threads that fit on a multiprocessor, by the rules of the CUDA Occupancy
    Calculator. ``registers`` are those a thread has, ``shared_bytes`` those a block has."""
    warps = -(-threads // _WARP)
    per_warp = -(-max(registers, 1) * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    # Warps are dealt to four schedulers, each with a quarter of the registers.
    by_registers = (arch.registers // 4 // per_warp) * 4 // warps
    shared = -(-(shared_bytes + _RESERVED_SHARED) // _SHARED_UNIT) * _SHARED_UNIT
    limits = {
        "warps": arch.warps // warps,
        "blocks": arch.blocks,
        "registers": by_registers,
        "shared memory": arch.shared_bytes // shared,
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks * warps / arch.warps, blocks, limit)
