"""The toy's language, one JSON list a line: kernels that synthesis prints, six by hand, and the assembler.

["case", NAME, ENTRY, PLAN] begins a case (the plan is the host's part), ["kernel", EXTENTS, TILE, BUFFERS] a
kernel of it; the instructions that follow are those of `kevolve_toy.machine`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kevolve_core import ir
from kevolve_core.errors import CompileError
from kevolve_core.hosting import Hosted, host_plan
from kevolve_core.interfaces import Renderer
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.space import Point
from kevolve_core.testing import PROBE_SYMBOL, ProbeKernels
from kevolve_toy.machine import ALU, COMBINERS, DTYPES, INSTRUCTIONS

PRINTED = ir.Subset("the toy", operators=ALU, combiners=COMBINERS, dtypes=DTYPES)


class ToyRenderer(Renderer):
    language = "toy"

    def supports(self, step: ir.Step) -> str:
        return PRINTED.refusal(step)

    def render(
        self, spec: KernelSpec, programs: Sequence[ir.Program], choices: Mapping[str, Point]
    ) -> Candidate:
        symbol = "" if spec.reference.kind == "module" else spec.reference.symbol
        lines: list[list[Any]] = []
        for program in programs:
            PRINTED.require(program, spec.name)
            lines.append(["case", program.case, symbol or "ModelNew", host_plan(program)])
            for nest in program.nests():
                point = {"tile": 1, "buffers": 1, **choices.get(nest.name, {})}
                lines.append(["kernel", [a.extent for a in nest.axes], point["tile"], point["buffers"]])
                lines += [_line(instruction) for instruction in ir.linear(nest, program.buffers)]
        return _candidate(lines, symbol)


def _line(i: ir.Instruction) -> list[Any]:
    match i.node:
        case ir.Load(buffer):
            return ["ld", i.register, buffer, *i.address]
        case ir.Store(buffer):
            return ["st", buffer, *i.address, *i.operands]
        case ir.Const(value, dtype):
            return ["imm", i.register, value, dtype]
        case ir.Reduce(_, combiner, accumulate=accumulate, dtype=dtype):
            return ["red", i.register, combiner, *i.operands, i.loops, accumulate, dtype]
        case ir.Op(name, _, dtype):
            return [name, i.register, dtype, *i.operands]


def _candidate(lines: list[list[Any]], symbol: str) -> Candidate:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Candidate({"kernel.toy": text}, "kernel.toy", "toy", symbol)


def probe_kernels(n: int = 1 << 18) -> ProbeKernels:
    """What the conformance kit sees the device work, tire and break by."""
    load, store, zero = ["ld", "r0", "x", 0, [1]], ["st", "y", 0, [1], "r0"], ["imm", "r0", 0, "float32"]
    return ProbeKernels(
        elements=n,
        copy=_probe(n, load, store),
        copy_twice=_probe(2 * n, load, store),
        empty=_probe(n, zero),
        out_of_range=_probe(n, ["ld", "r0", "x", n, [1]], store),
        endless=_probe(n, zero, ["jmp", 0]),
        oversized=_probe(10**9, load, store),
    )


def _probe(n: int, *code: list[Any]) -> Candidate:
    buffers = [["x", "input", "0", "float32", [n], [1], None], ["y", "output", "", "float32", [n], [1], None]]
    plan = {"buffers": buffers, "outputs": [["y", [n], [1], 0]], "structure": 0}
    return _candidate([["case", "copy", PROBE_SYMBOL, plan], ["kernel", [n], 4096, 1], *code], PROBE_SYMBOL)


def assemble(text: str, case: str) -> Hosted:
    """The program of ``case``. Raises CompileError with a line a mistake."""
    programs, kernels, mistakes = dict[str, Hosted](), list[Any](), list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        try:
            op, *rest = json.loads(line)
            if op == "case":
                kernels = []
                programs[rest[0]] = Hosted(rest[1], rest[2], kernels)
            elif op == "kernel":
                kernels.append(rest)
            elif op in INSTRUCTIONS:
                kernels[-1].append([op, *rest])
            else:
                raise ValueError(f"there is no instruction '{op}'")
        except (ValueError, TypeError, IndexError) as error:
            mistakes.append(f"kernel.toy:{number}: {error}: {line[:80]}")
    if mistakes or case not in programs:
        log = "\n".join(mistakes) or f"kernel.toy: there is no case '{case}'"
        raise CompileError(log.splitlines()[0], log=log, mend="see kevolve_toy.machine")
    return programs[case]
