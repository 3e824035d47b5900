"""The GPUs of this machine as the driver describes them, and devices that exist only to be compiled for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kevolve_core.errors import KevolveError
from kevolve_core.model import Device, Target
from kevolve_nvidia.architectures import ARCHITECTURES, Architecture, architecture, name_of
from kevolve_nvidia.driver import api, checked

__all__ = ["compile_only", "found_devices", "target_of"]

#: Fact -> the driver's attribute (CUDA driver API, enum CUdevice_attribute, without its prefix).
_ATTRIBUTES = {
    "multiprocessors": "MULTIPROCESSOR_COUNT",
    "l2_bytes": "L2_CACHE_SIZE",
    "persisting_l2_bytes": "MAX_PERSISTING_L2_CACHE_SIZE",
    "shared_bytes_per_multiprocessor": "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR",
    "shared_bytes_per_block": "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    "registers_per_multiprocessor": "MAX_REGISTERS_PER_MULTIPROCESSOR",
    "threads_per_multiprocessor": "MAX_THREADS_PER_MULTIPROCESSOR",
    "clock_khz": "CLOCK_RATE",
    "memory_clock_khz": "MEMORY_CLOCK_RATE",
    "memory_bus_bits": "GLOBAL_MEMORY_BUS_WIDTH",
    "ecc": "ECC_ENABLED",
    "virtual_memory": "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED",
}

#: Orders of memory that cuDNN has convolutions for. Its tensor-core kernels want channels last: other orders
#: are converted inside the call (NVIDIA, "Convolutional Layers User's Guide", tensor layouts).
CONVOLUTION_LAYOUTS = ("channels_last", "contiguous")


def target_of(arch: str) -> Target:
    """What the compilers are asked for."""
    return Target("nvidia", arch)


def found_devices(capabilities: frozenset[str], more: Mapping[str, Any] | None = None) -> tuple[Device, ...]:
    """Every GPU that the driver shows, with ``more`` among its facts; none where there is no driver, no GPU,
    or no permission."""
    try:
        driver = api()
        checked("cuInit", driver.cuInit(0))
        count = checked("cuDeviceGetCount", driver.cuDeviceGetCount())
        version = checked("cuDriverGetVersion", driver.cuDriverGetVersion())
        return tuple(_device(driver, i, int(version), capabilities, more or {}) for i in range(count))
    except (KevolveError, RuntimeError, OSError):
        # cuda-bindings raises a RuntimeError of its own where it finds no libcuda.
        return ()


def _device(
    driver: Any, index: int, version: int, capabilities: frozenset[str], more: Mapping[str, Any]
) -> Device:
    handle = checked("cuDeviceGet", driver.cuDeviceGet(index))
    name = checked("cuDeviceGetName", driver.cuDeviceGetName(256, handle)).split(b"\0")[0].decode().strip()
    facts: dict[str, Any] = {
        fact: _attribute(driver, handle, attribute) for fact, attribute in _ATTRIBUTES.items()
    }
    major, minor = (_attribute(driver, handle, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
    facts |= {
        "index": index,
        "compute_capability": 10 * major + minor,
        "memory_bytes": int(checked("cuDeviceTotalMem", driver.cuDeviceTotalMem(handle))),
        "uuid": bytes(checked("cuDeviceGetUuid", driver.cuDeviceGetUuid(handle)).bytes).hex(),
        "cuda_driver": f"{version // 1000}.{version % 1000 // 10}",
        "threads": _host_cpus(),
        "convolution_layouts": list(CONVOLUTION_LAYOUTS),
        # What a call may take by default: no kernel worth having runs longer, and an endless one has to be
        # given up soon. The host's memory holds CUDA's own mappings too. Both `estimated`.
        "call_timeout_s": 6.0,
        "host_memory_bytes": 24 << 30,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
    }
    return Device(
        id=f"nvidia:{index}",
        backend="nvidia",
        name=name,
        target=target_of(name_of(10 * major + minor)),
        capabilities=capabilities,
        facts={**facts, **more},
    )


def _attribute(driver: Any, handle: Any, name: str) -> int:
    attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return int(checked("cuDeviceGetAttribute", driver.cuDeviceGetAttribute(attribute, handle)))


def _host_cpus() -> int:
    """CPUs that oracle and workers may use."""
    return len(os.sched_getaffinity(0))


def compile_only(name: str) -> Device:
    """A device that is not here: architecture ``name`` with its limits, good for compiling. Raises
    `ConfigError` for an unknown name."""
    arch: Architecture = ARCHITECTURES[architecture(name).capability]
    return Device(
        id=f"nvidia:{name}",
        backend="nvidia",
        name=f"{arch.family} ({name}), for compiling only",
        target=target_of(name),
        capabilities=frozenset({"compile"}),
        facts={
            "compute_capability": arch.capability,
            "shared_bytes_per_multiprocessor": arch.shared_bytes,
            "shared_bytes_per_block": arch.shared_per_block,
            "registers_per_multiprocessor": arch.registers,
            "threads_per_multiprocessor": 32 * arch.warps,
            "threads": _host_cpus(),
            "convolution_layouts": list(CONVOLUTION_LAYOUTS),
        },
    )
