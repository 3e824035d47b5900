"""What a simple renderer prints of the loop IR, as data; its refusals in words follow from that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import field, frozen

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir.affine import affine
from kevolve_core.ir.attention import Attention
from kevolve_core.ir.expr import Const, Expr, Index, Load, Op, Var, walk
from kevolve_core.ir.program import Let, LoopNest, Program, Reduce, Step, Store

__all__ = ["Subset"]


def _names(given: Iterable[str]) -> frozenset[str]:
    return frozenset(given)


@frozen
class Subset:
    """Pointwise values, reductions and stores over element types and operators that a target has.

    Library calls, scans, contractions, searches and atomic stores are outside of it: a renderer that prints
    those says so itself.

    Args:
        whose: what the refusals speak of (``the acme renderer``).
        operators: names of `Op` that are printed; casts too where ``cast`` is among them.
        combiners: of `Reduce`.
        dtypes: element types of values.
        gathers: printed beside affine accesses: masks, indices that are no affine form, and loop indices as
            values.
    """

    whose: str
    operators: frozenset[str] = field(converter=_names)
    combiners: frozenset[str] = field(converter=_names)
    dtypes: frozenset[str] = field(converter=_names)
    gathers: bool = False

    def require(self, program: Program, where: str) -> None:
        """Raise `UnsupportedError` where a step cannot be printed: how a `Renderer.render` begins."""
        for step in program.steps:
            if reason := self.refusal(step):
                raise UnsupportedError(reason, where=f"{where}, case {program.case}, step {step.name}")

    def refusal(self, step: Step) -> str:
        """Empty where ``step`` can be printed, else why it cannot: what `Renderer.supports` answers."""
        if isinstance(step, Attention):
            return f"{self.whose} has no kernel for attention"
        if not isinstance(step, LoopNest):
            return f"{self.whose} calls no library, and this needs {step.op}"
        for s in step.body:
            if not isinstance(s, Let | Reduce | Store):
                return f"{self.whose} has no {type(s).__name__}"
            if isinstance(s, Reduce) and s.combiner not in self.combiners:
                return f"{self.whose} has no reduction '{s.combiner}'"
            if isinstance(s, Store) and s.mode != "set":
                return f"{self.whose} has no atomic '{s.mode}'"
            masked = isinstance(s, Store) and (s.mask is not None or None in map(affine, s.index))
            if masked and not self.gathers:
                return f"{self.whose} has no scattered or masked store"
            for e in self._values(s):
                if reason := self._unknown(e):
                    return reason
        return ""

    def _values(self, s: Let | Reduce | Store) -> Iterator[Expr]:
        """What is computed; an affine index is an address, and none of its parts is a value."""
        if self.gathers:
            index = (*s.index, *(() if s.mask is None else (s.mask,))) if isinstance(s, Store) else ()
            for e in (s.value, *index):
                yield from walk(e)
            return
        stack: list[Expr] = [s.value]
        while stack:
            e = stack.pop()
            yield e
            stack += e.args if isinstance(e, Op) else ()

    def _unknown(self, e: Expr) -> str:
        if e.dtype not in self.dtypes:
            return f"{self.whose} has no element type {e.dtype}"
        if isinstance(e, Op) and e.name not in self.operators:
            return f"{self.whose} has no operator '{e.name}'"
        if isinstance(e, Index) and not self.gathers:
            return f"{self.whose} has no loop index as a value"
        scattered = isinstance(e, Load) and (e.mask is not None or None in map(affine, e.index))
        if scattered and not self.gathers:
            return f"{self.whose} has no gathered or masked load"
        assert isinstance(e, Const | Index | Var | Load | Op)
        return ""
