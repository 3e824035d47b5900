"""The machine, all invented: instructions on whole loops, an interpreter (NumPy) and a cycle model.

A register holds a value at every point of the loops it depends on: its shape is the loops' extents, with 1
where it does not. One JSON list an instruction, addresses in elements, a stride a loop:

    ["ld", R, BUFFER, OFFSET, STRIDES]    ["st", BUFFER, OFFSET, STRIDES, R]    ["imm", R, VALUE, DTYPE]
    ["red", R, COMBINER, A, LOOPS, ACCUMULATE, DTYPE]    ["jmp", LINE]    [one of ALU, R, DTYPE, A, …]
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LAUNCH, ISSUE, LANES, BYTES, FREQUENCY = 2000, 16, 64, 64, 1e9  # cycles, cycles, a cycle, a cycle, Hz
SCRATCHPAD, MEMORY = 1 << 18, 256 << 20  # bytes
DTYPES = {"float32": 4, "float16": 2, "int64": 8, "int32": 4}
COMBINERS = {"sum": np.sum, "max": np.max, "min": np.min}
ALU: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "exp": np.exp, "max": np.maximum, "min": np.minimum, "sqrt": np.sqrt, "tanh": np.tanh, "cast": np.asarray,
    "rsqrt": lambda a: 1 / np.sqrt(a), "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
}  # fmt: skip
SLOW = {"div", "exp", "sqrt", "tanh", "rsqrt", "sigmoid"}  # eight cycles each


def view(data: Any, offset: int, strides: list[int], extents: list[int]) -> Any:
    """The elements of a flat array that an access touches: one along the loops it does not move with."""
    shape = [n if step else 1 for n, step in zip(extents, strides, strict=True)]
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and not 0 <= offset <= last < data.size:
        raise RuntimeError(f"device fault: access to element {last} of a buffer of {data.size}")
    return np.lib.stride_tricks.as_strided(data[offset:], shape, [step * data.itemsize for step in strides])


def run(kernel: dict[str, Any], memory: dict[str, Any]) -> dict[str, float]:
    """Execute a kernel on flat arrays by buffer; returns what was counted."""
    (extents, tile, buffers), code, at = kernel["loops"], kernel["code"], 0
    registers: dict[str, Any] = {}
    read = written = work = 0.0
    with np.errstate(all="ignore"):
        while at < len(code):
            (op, *args), at = code[at], at + 1
            match op:
                case "ld":
                    found = registers[args[0]] = view(memory[args[1]], args[2], args[3], extents)
                    read += found.nbytes
                case "st":
                    found = view(memory[args[0]], args[1], args[2], extents)
                    found[...], written = registers[args[3]], written + found.nbytes
                case "imm":
                    registers[args[0]] = np.full([1] * len(extents), args[1], args[2])
                case "red":
                    value, loops = registers[args[2]], tuple(args[3])
                    shape = [extents[i] if i in loops else n for i, n in enumerate(value.shape)]
                    whole = np.broadcast_to(value, shape).astype(args[4])
                    registers[args[0]] = COMBINERS[args[1]](whole, axis=loops, keepdims=True).astype(args[5])
                    work += whole.size
                case "jmp":
                    at = args[0]
                case _:
                    found = registers[args[0]] = ALU[op](*(registers[r] for r in args[2:])).astype(args[1])
                    work += found.size * (8 if op in SLOW else 1)
    # Every instruction is issued a tile of the first loop; memory and arithmetic follow one another, or
    # overlap with two buffers; what does not fit the scratchpad is moved twice.
    spills = 4 * tile * math.prod(extents[1:]) * buffers > SCRATCHPAD
    moving, computing = (read + written) / BYTES * (1 + spills), work / LANES
    cycles = LAUNCH + math.ceil((extents or [1])[0] / tile) * ISSUE * len(code)
    cycles += max(moving, computing) if buffers == 2 else moving + computing
    return {"bytes_read": read, "bytes_written": written, "launches": 1.0, "cycles": cycles}
