"""Loop nests in the toy's language: pointwise values and reductions over affine loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kevolve_core import ir
from kevolve_core.errors import UnsupportedError
from kevolve_core.isolate.tensors import flatten
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.space import Point
from kevolve_toy.machine import ALU, COMBINERS, DTYPES


class ToyRenderer:
    """See `kevolve_core.interfaces.Renderer`."""

    language = "toy"

    def supports(self, step: ir.Step) -> str:
        if not isinstance(step, ir.LoopNest):
            return f"the toy has no library, so no {step.op}"
        for s in step.body:
            plain = s.mask is None and s.mode == "set" if isinstance(s, ir.Store) else isinstance(s, ir.Let)
            if not plain and not (isinstance(s, ir.Reduce) and s.combiner in COMBINERS):
                return f"the toy has no such {type(s).__name__.lower()}"
            for e in _values(s.value):
                affine = isinstance(e, ir.Load) and e.mask is None and None not in map(ir.affine, e.index)
                known = affine or isinstance(e, ir.Var | ir.Const) or (isinstance(e, ir.Op) and e.name in ALU)
                if not known or e.dtype not in DTYPES:
                    return f"the toy has no such {getattr(e, 'name', type(e).__name__.lower())} of {e.dtype}"
        return ""

    def render(
        self, spec: KernelSpec, programs: Sequence[ir.Program], choices: Mapping[str, Point]
    ) -> Candidate:
        symbol = "" if spec.reference.kind == "module" else spec.reference.symbol
        lines: list[list[Any]] = [["entry", symbol or "ModelNew"]]
        for p in programs:
            lines.append(["case", p.case])
            lines += [["buffer", b.name, b.role, b.source, b.dtype, b.shape] for b in p.buffers.values()]
            for step in p.steps:
                constant = any(b.role == "constant" for b in p.buffers.values())
                if reason := self.supports(step) or ("the toy has no constant buffers" if constant else ""):
                    raise UnsupportedError(reason, where=f"{spec.name}, step {step.name}")
                lines += _Kernel(step, p).lines(choices.get(step.name, {}))
            numbers, tree = flatten(p.structure)
            leaves = [p.outputs[n] for n in numbers]
            lines.append(["return", tree, [[o.buffer, o.shape, o.strides, o.offset] for o in leaves]])
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return Candidate({"kernel.toy": text}, "kernel.toy", self.language, symbol)


def _values(e: ir.Expr) -> Iterator[ir.Expr]:
    """An expression and its operands; the indices of a load are no values."""
    yield e
    for operand in e.args if isinstance(e, ir.Op) else ():
        yield from _values(operand)


class _Kernel:
    """Prints one nest; equal expressions share a register."""

    def __init__(self, nest: Any, program: ir.Program) -> None:
        self._nest, self._buffers, self._loops = nest, program.buffers, [a.name for a in nest.axes]
        self._lines: list[list[Any]] = []
        self._registers: dict[ir.Expr, str] = {}

    def lines(self, point: Point) -> list[list[Any]]:
        for s in self._nest.body:
            value, dtype = self._register(s.value), s.value.dtype
            if isinstance(s, ir.Store):
                self._lines.append(["st", s.buffer, *self._address(s), value])
                continue
            if isinstance(s, ir.Reduce):
                loops, dtype = [self._loops.index(axis) for axis in s.axes], s.dtype
                value = self._set("red", s.combiner, value, loops, s.accumulate, dtype)
            self._registers[ir.Var(s.name, dtype)] = value
        extents = [a.extent for a in self._nest.axes]
        return [["kernel", extents, point.get("tile", 1), point.get("buffers", 1)], *self._lines]

    def _set(self, op: str, *operands: Any) -> str:
        self._lines.append([op, f"r{len(self._lines)}", *operands])
        return f"r{len(self._lines) - 1}"

    def _address(self, access: Any) -> list[Any]:
        offset, strides = ir.address(access, self._buffers[access.buffer]) or (0, {})
        return [offset, [strides.get(axis, 0) for axis in self._loops]]

    def _register(self, e: Any) -> str:
        if e not in self._registers:
            if isinstance(e, ir.Op):
                operands = [self._register(a) for a in e.args]
                self._registers[e] = self._set(e.name, e.dtype, *operands)
            elif isinstance(e, ir.Load):
                self._registers[e] = self._set("ld", e.buffer, *self._address(e))
            else:
                self._registers[e] = self._set("imm", e.value, e.dtype)
        return self._registers[e]
