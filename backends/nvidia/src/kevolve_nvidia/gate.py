"""A kernel that holds the whole device for a while: what is launched meanwhile starts right behind it.

A timed call is then measured on the device alone: launches queue up while the gate waits. Every block of it
takes a whole multiprocessor's shared memory, so nothing else runs beside it: work that a candidate hides on
another stream cannot begin before the start mark.
"""

from __future__ import annotations

import ctypes
from typing import Any

from kevolve_nvidia.driver import api, checked

__all__ = ["GATE_PTX", "Gate"]

_THREADS = 128
#: PTX, so that the driver assembles it for any architecture and no compiler is needed. ``%globaltimer``
#: counts nanoseconds (PTX ISA, Special Registers).
GATE_PTX = """
.version 7.0
.target sm_70
.address_size 64

.visible .entry kevolve_gate(.param .u64 nanoseconds)
{
    .reg .pred %late;
    .reg .u64 %begin, %now, %passed, %wanted;
    ld.param.u64 %wanted, [nanoseconds];
    mov.u64 %begin, %globaltimer;
$wait:
    mov.u64 %now, %globaltimer;
    sub.u64 %passed, %now, %begin;
    setp.lt.u64 %late, %passed, %wanted;
    @%late bra $wait;
    ret;
}
"""


class Gate:
    """Made once a process, in the context of the device it holds.

    Args:
        multiprocessors: how many there are.
        shared_bytes: shared memory that one block may have at most.
    """

    def __init__(self, multiprocessors: int, shared_bytes: int) -> None:
        driver = api()
        self._blocks, self._shared = multiprocessors, shared_bytes
        self._module = checked("the gate", driver.cuModuleLoadData(GATE_PTX.encode() + b"\0"))
        self._function = checked("the gate", driver.cuModuleGetFunction(self._module, b"kevolve_gate"))
        opt_in = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked("the gate's size", driver.cuFuncSetAttribute(self._function, opt_in, shared_bytes))

    def hold(self, seconds: float, stream: int) -> None:
        """Keep the device busy for ``seconds`` from when ``stream`` gets there; returns at once."""
        driver: Any = api()
        arguments = ((int(seconds * 1e9),), (ctypes.c_uint64,))
        result = driver.cuLaunchKernel(
            self._function, self._blocks, 1, 1, _THREADS, 1, 1, self._shared, stream, arguments, 0
        )
        checked("the gate", result)
