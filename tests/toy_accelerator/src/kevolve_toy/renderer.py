"""Loop nests as the toy's assembly: pointwise values and reductions over affine loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    Load,
    LoopNest,
    Op,
    Program,
    Reduce,
    Step,
    Store,
    Var,
    address,
    affine,
    walk,
)
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate
from kevolve_core.space import Point
from kevolve_toy.machine import ALU, COMBINERS, DTYPES


class ToyRenderer:
    """See `kevolve_core.interfaces.Renderer`."""

    language = "toy"

    def supports(self, step: Step) -> str:
        if not isinstance(step, LoopNest):
            return f"the toy has no library, so no {step.op}"
        for s in step.body:
            if not isinstance(s, Let | Reduce | Store):
                return f"the toy has no {type(s).__name__.lower()}"
            if isinstance(s, Reduce) and s.combiner not in COMBINERS:
                return f"the toy does not reduce by {s.combiner}"
            if isinstance(s, Store) and (s.mask is not None or s.mode != "set"):
                return "the toy stores neither masked nor atomically"
        for e in (node for root in step.expressions() for node in walk(root)):
            if e.dtype not in DTYPES:
                return f"the toy has no element type {e.dtype}"
            if isinstance(e, Op) and e.name not in ALU:
                return f"the toy has no instruction for {e.name}"
            if isinstance(e, Load) and (e.mask is not None or None in map(affine, e.index)):
                return "the toy loads neither masked nor by index"
        return ""

    def render(
        self, spec: KernelSpec, programs: Sequence[Program], choices: Mapping[str, Point]
    ) -> Candidate:
        module = spec.reference.kind == "module"
        lines = [f"; {spec.name}", f".entry {'ModelNew' if module else spec.reference.symbol}"]
        for p in programs:
            lines.append(f"\n.case {p.case}")
            for b in p.buffers.values():
                if b.role == "constant":
                    raise UnsupportedError("the toy has no constant buffers", got=b.name, where=spec.name)
                lines.append(f".buffer {b.name} {b.role} {b.source or '-'} {b.dtype} {_list(b.shape)}")
            for step in p.steps:
                if reason := self.supports(step):
                    raise UnsupportedError(reason, where=f"{spec.name}, step {step.name}")
                assert isinstance(step, LoopNest)
                lines += _Kernel(step, p.buffers).text(choices.get(step.name, {}))
            lines += [f".output {o.buffer} {o.offset} {_list(o.shape)} {_list(o.strides)}" for o in p.outputs]
            lines.append(f".return {p.structure!r}")
        symbol = "" if module else spec.reference.symbol
        return Candidate({"kernel.toy": "\n".join(lines) + "\n"}, "kernel.toy", self.language, symbol)


def _list(numbers: Sequence[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


class _Kernel:
    """Prints one nest; equal expressions share a register."""

    def __init__(self, nest: LoopNest, buffers: Mapping[str, Buffer]) -> None:
        self._nest, self._buffers, self._axes = nest, buffers, [a.name for a in nest.axes]
        self._lines: list[str] = []
        self._registers: dict[Expr, str] = {}
        self._named: dict[str, str] = {}

    def text(self, point: Point) -> list[str]:
        extents = _list([a.extent for a in self._nest.axes])
        for s in self._nest.body:
            value = self._register(s.value)  # type: ignore[union-attr]
            if isinstance(s, Let):
                self._named[s.name] = value
            elif isinstance(s, Reduce):
                axes = _list([self._axes.index(axis) for axis in s.axes])
                self._named[s.name] = self._set(
                    f"red {{}} {s.combiner} {value} {axes} {s.accumulate} {s.dtype}"
                )
            elif isinstance(s, Store):
                self._lines.append(f"    st {s.buffer} {self._address(s)} {value}")
        head = f".kernel {self._nest.name} {extents} {point.get('tile', 64)} {point.get('buffers', 1)}"
        return [head, *self._lines]

    def _set(self, line: str) -> str:
        name = f"r{sum(not text.startswith('    st') for text in self._lines)}"
        self._lines.append("    " + line.format(name))
        return name

    def _address(self, access: Load | Store) -> str:
        found = address(access, self._buffers[access.buffer])
        assert found is not None  # `supports` saw to it
        return f"{access.buffer} {found[0]} ".removeprefix(f"{access.buffer} ") + _list(
            [found[1].get(axis, 0) for axis in self._axes]
        )

    def _register(self, e: Expr) -> str:
        if isinstance(e, Var):
            return self._named[e.name]
        if e not in self._registers:
            if isinstance(e, Const):
                line = f"imm {{}} {e.value} {e.dtype}"
            elif isinstance(e, Index):
                line = f"idx {{}} {self._axes.index(e.axis)}"
            elif isinstance(e, Load):
                line = f"ld {{}} {e.buffer} {self._address(e)}"
            else:
                line = f"{e.name} {{}} {e.dtype} {' '.join(self._register(a) for a in e.args)}"
            self._registers[e] = self._set(line)
        return self._registers[e]
