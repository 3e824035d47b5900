"""The machine: loops over whole registers, an interpreter (NumPy), and a cycle model. All of it is invented.

A kernel has loop extents. A register holds a value at every point of the loops that it depends on: its shape is
the extents, with 1 where it does not. Instructions, one a line (addresses are in elements):

    ld  R BUFFER OFFSET STRIDES     st  BUFFER OFFSET STRIDES R       imm R VALUE DTYPE
    idx R AXIS                      red R COMBINER R AXES ACC DTYPE   jmp LINE
    OP  R DTYPE R...                one of `ALU`
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

FREQUENCY, LAUNCH, ISSUE, LANES, BYTES_PER_CYCLE = 1e9, 2000, 16, 64, 64  # Hz, cycles, cycles, lanes, bytes
SCRATCHPAD, MEMORY = 1 << 18, 256 << 20  # bytes
DTYPES = {"float32": 4, "float16": 2, "int64": 8, "int32": 4, "bool": 1}
COMBINERS = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}
ALU: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power, "neg": np.negative,
    "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "tanh": np.tanh, "sin": np.sin, "cos": np.cos,
    "max": np.maximum, "min": np.minimum, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "gt": np.greater,
    "le": np.less_equal, "ge": np.greater_equal, "where": np.where, "cast": np.asarray, "floor": np.floor,
    "rsqrt": lambda a: 1 / np.sqrt(a), "reciprocal": lambda a: 1 / a, "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "fma": lambda a, b, c: a * b + c, "isnan": np.isnan,
}  # fmt: skip
SLOW = {"div", "pow", "sqrt", "exp", "log", "tanh", "sin", "cos", "rsqrt", "reciprocal", "sigmoid"}


class DeviceFault(RuntimeError):
    """An access outside of a buffer."""


def view(data: Any, offset: int, strides: list[int], extents: list[int]) -> Any:
    """The elements of a flat array that an access touches: one along axes it does not move on."""
    shape = [n if step else 1 for n, step in zip(extents, strides, strict=True)]
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and not 0 <= offset <= last < data.size:
        raise DeviceFault(f"access to element {last} of a buffer of {data.size}")
    return np.lib.stride_tricks.as_strided(data[offset:], shape, [step * data.itemsize for step in strides])


def run(kernel: dict[str, Any], memory: dict[str, Any]) -> dict[str, float]:
    """Execute a kernel on flat arrays by name; returns what was counted, ``cycles`` among it."""
    extents, code, registers, at = kernel["extents"], kernel["code"], {}, 0
    read = written = work = 0.0
    with np.errstate(all="ignore"):
        while at < len(code):
            (op, *args), at = code[at], at + 1
            match op:
                case "ld":
                    found = view(memory[args[1]], args[2], args[3], extents)
                    registers[args[0]], read = found, read + found.nbytes
                case "st":
                    target = view(memory[args[0]], args[1], args[2], extents)
                    target[...] = registers[args[3]]
                    written += target.nbytes
                case "imm":
                    registers[args[0]] = np.full([1] * len(extents), args[1], args[2])
                case "idx":
                    shape = [n if axis == args[1] else 1 for axis, n in enumerate(extents)]
                    registers[args[0]] = np.arange(extents[args[1]]).reshape(shape)
                case "red":
                    value, axes = registers[args[2]], tuple(args[3])
                    shape = [
                        n if axis in axes else m for axis, (n, m) in enumerate(zip(extents, value.shape))
                    ]
                    whole = np.broadcast_to(value, shape).astype(args[4])
                    registers[args[0]] = COMBINERS[args[1]](whole, axis=axes, keepdims=True).astype(args[5])
                    work += whole.size
                case "jmp":
                    at = args[0]
                case _:
                    found = np.asarray(ALU[op](*(registers[r] for r in args[2:]))).astype(args[1])
                    registers[args[0]], work = found, work + found.size * (8 if op in SLOW else 1)
    return {"bytes_read": read, "bytes_written": written, "launches": 1.0,
            "cycles": cycles(kernel, read + written, work)}  # fmt: skip


def cycles(kernel: dict[str, Any], nbytes: float, work: float) -> float:
    """Launch, issue of every instruction a tile of the first loop, then memory and arithmetic: one after the
    other, or overlapped with two buffers. What does not fit the scratchpad is moved twice."""
    extents, tile, buffers = kernel["extents"], kernel["tile"], kernel["buffers"]
    first = extents[0] if extents else 1
    if 4 * tile * math.prod(extents[1:]) * buffers > SCRATCHPAD:
        nbytes *= 2
    moving, computing = nbytes / BYTES_PER_CYCLE, work / LANES
    busy = max(moving, computing) if buffers == 2 else moving + computing
    return LAUNCH + math.ceil(first / tile) * ISSUE * len(kernel["code"]) + busy
