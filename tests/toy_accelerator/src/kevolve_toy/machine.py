"""The machine, all invented: instructions on whole loops, an interpreter (NumPy) and a cycle model.

A register holds a value at every point of the loops it depends on: its shape is the loops' extents, with 1
where it does not. An instruction is a JSON list; addresses are in elements, with a stride a loop:

    ["ld", R, BUFFER, OFFSET, STRIDES]    ["st", BUFFER, OFFSET, STRIDES, R]    ["imm", R, VALUE, DTYPE]
    ["red", R, COMBINER, A, LOOPS, ACCUMULATE, DTYPE]    ["jmp", LINE]    [one of ALU, R, DTYPE, A, …]
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LAUNCH, ISSUE, LANES, BYTES, FREQUENCY = 2000, 16, 64, 64, 1e9  # cycles, cycles, a cycle, a cycle, Hz
SCRATCHPAD, MEMORY = 1 << 18, 256 << 20  # bytes
DTYPES = {"float32": 4, "float16": 2, "int64": 8}
COMBINERS = {"sum": np.sum, "max": np.max}
ALU: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "exp": np.exp, "tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "cast": np.asarray,
}  # fmt: skip
INSTRUCTIONS = {"ld", "st", "imm", "red", "jmp", *ALU}


def view(data: Any, offset: int, strides: list[int], extents: list[int]) -> Any:
    """The elements of a flat array that an access touches: one along the loops it does not move with."""
    shape = [n if step else 1 for n, step in zip(extents, strides, strict=True)]
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and not 0 <= offset <= last < data.size:
        raise RuntimeError(f"device fault: access to element {last} of a buffer of {data.size}")
    return np.lib.stride_tricks.as_strided(data[offset:], shape, [step * data.itemsize for step in strides])


def run(kernel: list[Any], memory: dict[str, Any]) -> dict[str, float]:
    """Execute ``[extents, tile, buffers, *instructions]`` on flat arrays by name; what was counted."""
    (extents, tile, buffers, *code), at = kernel, 0
    registers: dict[str, Any] = {}
    read = written = work = 0
    while at < len(code):
        match code[at]:
            case ["ld", r, name, offset, strides]:
                registers[r] = view(memory[name], offset, strides, extents).copy()
                read += registers[r].nbytes
            case ["st", name, offset, strides, r]:
                place = view(memory[name], offset, strides, extents)
                place[...] = registers[r]
                written += place.nbytes
            case ["imm", r, value, dtype]:
                registers[r] = np.full([1] * len(extents), value, dtype)
            case ["red", r, combiner, a, loops, accumulate, dtype]:
                shape = [extents[i] if i in loops else n for i, n in enumerate(registers[a].shape)]
                whole = np.broadcast_to(registers[a], shape).astype(accumulate)
                registers[r] = COMBINERS[combiner](whole, axis=tuple(loops), keepdims=True).astype(dtype)
                work += whole.size
            case ["jmp", line]:
                at = line - 1
            case [op, r, dtype, *operands]:
                registers[r] = ALU[op](*(registers[a] for a in operands)).astype(dtype)
                work += registers[r].size
        at += 1
    # Every instruction is issued a tile of the first loop; with two buffers memory and arithmetic overlap.
    moving, computing = (read + written) / BYTES, work / LANES
    cycles = LAUNCH + math.ceil(math.prod(extents[:1]) / tile) * ISSUE * len(code)
    cycles += max(moving, computing) if buffers == 2 else moving + computing
    return {"bytes_read": read, "bytes_written": written, "launches": 1, "cycles": cycles}
