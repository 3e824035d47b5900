"""What Triton and host code are told of a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kevolve_nvidia.architectures import Architecture

__all__ = ["triton_properties"]


def triton_properties(facts: Mapping[str, Any], arch: Architecture) -> dict[str, Any]:
    """What host code and Triton are told of the device, under PyTorch's and Triton's names. ``facts`` are a
    device's; what they lack follows from the architecture, and the number of multiprocessors from an H100's
    132 where no device is there."""
    multiprocessors = int(facts.get("multiprocessors", 132))
    shared = int(facts.get("shared_bytes_per_block", arch.shared_per_block))
    return {
        "name": arch.family,
        "major": arch.capability // 10,
        "minor": arch.capability % 10,
        "multi_processor_count": multiprocessors,
        "multiprocessor_count": multiprocessors,
        "shared_memory_per_block_optin": shared,
        "shared_memory_per_multiprocessor": int(
            facts.get("shared_bytes_per_multiprocessor", arch.shared_bytes)
        ),
        "max_shared_mem": shared,
        "max_num_regs": arch.registers,
        "regs_per_multiprocessor": arch.registers,
        "max_threads_per_multi_processor": 32 * arch.warps,
        "total_memory": int(facts.get("memory_bytes", 80 << 30)),
        "L2_cache_size": int(facts.get("l2_bytes", 50 << 20)),
        "warpSize": 32,
        "warp_size": 32,
        "sm_clock_rate": int(facts.get("clock_khz", 0)),
        "mem_clock_rate": int(facts.get("memory_clock_khz", 0)),
        "mem_bus_width": int(facts.get("memory_bus_bits", 0)),
    }
