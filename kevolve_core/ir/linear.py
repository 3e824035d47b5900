"""A nest as straight-line code over registers: what a renderer of a register machine prints line by line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from attrs import frozen

from kevolve_core.ir.affine import address
from kevolve_core.ir.expr import Const, Expr, Load, Op, Var, walk
from kevolve_core.ir.program import Buffer, Let, LoopNest, Reduce, Store

__all__ = ["Instruction", "linear"]


@frozen
class Instruction:
    """``register = node(operands)``: a constant, a load, an operator, a reduction; or a store.

    Args:
        register: ``r0``, ``r1``, …, each set once; "" for a store.
        node: what is done. Its own expressions are not to be printed again: their registers are
            ``operands``.
        operands: registers of an operator's arguments, or of the value that is reduced or stored.
        address: of a load or store in its buffer: the offset, and the stride of each of the nest's loops; in
            elements.
        loops: those that a reduction is over, as places in the nest's axes.
    """

    register: str
    node: Const | Load | Op | Reduce | Store
    operands: tuple[str, ...] = ()
    address: tuple[int, tuple[int, ...]] = (0, ())
    loops: tuple[int, ...] = ()


def linear(nest: LoopNest, buffers: Mapping[str, Buffer]) -> Iterator[Instruction]:
    """The instructions of a nest of a `Subset` without gathers, in order. Equal expressions share a register,
    but a buffer that was stored to is loaded anew.

    Raises:
        ValueError: the nest is outside of that.
    """
    registers: dict[Expr, str] = {}
    values: dict[str, str] = {}
    places = {axis.name: place for place, axis in enumerate(nest.axes)}
    numbers = itertools.count()

    def reached(access: Load | Store) -> tuple[int, tuple[int, ...]]:
        found = address(access, buffers[access.buffer])
        if found is None or access.mask is not None:
            raise ValueError(f"{nest.name}: an access of {access.buffer} is masked or no affine form")
        return found[0], tuple(found[1].get(name, 0) for name in places)

    def computed(root: Expr) -> Iterator[Instruction]:
        """What is still missing for ``root``."""
        if isinstance(root, Var) or root in registers:
            return
        if not isinstance(root, Const | Load | Op):
            raise ValueError(f"{nest.name}: a loop index is no value here")
        arguments = root.args if isinstance(root, Op) else ()
        for argument in arguments:
            yield from computed(argument)
        registers[root] = f"r{next(numbers)}"
        operands = tuple(register(argument) for argument in arguments)
        where = reached(root) if isinstance(root, Load) else (0, ())
        yield Instruction(registers[root], root, operands, where)

    def register(e: Expr) -> str:
        return values[e.name] if isinstance(e, Var) else registers[e]

    for s in nest.body:
        if not isinstance(s, Let | Reduce | Store):
            raise ValueError(f"{nest.name}: a {type(s).__name__} is no straight-line code")
        yield from computed(s.value)
        value = register(s.value)
        if isinstance(s, Let):
            values[s.name] = value
        elif isinstance(s, Reduce):
            values[s.name] = f"r{next(numbers)}"
            yield Instruction(values[s.name], s, (value,), loops=tuple(places[axis] for axis in s.axes))
        else:
            yield Instruction("", s, (value,), reached(s))
            for e in [e for e in registers if _reads(e, s.buffer)]:
                del registers[e]


def _reads(e: Expr, buffer: str) -> bool:
    return any(isinstance(n, Load) and n.buffer == buffer for n in walk(e))
