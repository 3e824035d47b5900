"""Compulsory bytes and FLOPs of a program and of its steps, counted from the loop IR.

Bytes are what any kernel that computes the step has to move: every input element that is read, once, and
every output element, once. A gather counts the elements it can touch, a search the elements a binary search
of each query visits, both at most the whole buffer. Every floating-point operator counts as one FLOP, a
library's matrix product as 2·M·N·K.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from kevolve_core.interfaces import Work
from kevolve_core.ir import (
    Attention,
    Buffer,
    Contract,
    Expr,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Program,
    Reduce,
    Scan,
    Search,
    Single,
    Step,
    Store,
    axes_of,
    itemsize,
    singles,
    vars_of,
    walk,
)

__all__ = ["program_work", "step_work"]

_FREE = frozenset(["cast", "where", "lt", "le", "gt", "ge", "eq", "ne"])


def program_work(program: Program) -> Work:
    """Work of the whole program: temporaries do not count."""
    return _work(
        program.singles(), program.buffers, frozenset(["input", "param", "constant"]), frozenset(["output"])
    )


def step_work(step: Step, buffers: Mapping[str, Buffer]) -> Work:
    """Work of one step on its own: everything it reads and writes counts, but what passes from a library call
    to its epilogue, and between the parts of attention."""
    everything = frozenset(["input", "param", "constant", "temp", "output"])
    passing: set[str] = set()
    if isinstance(step, LibraryCall) and step.epilogue is not None:
        passing = {step.output}
    elif isinstance(step, Attention):
        passing = _stored(step) - set(step.result.writes())
    kept = {n: b for n, b in buffers.items() if n not in passing}
    return _work(singles(step), kept, everything, everything)


def _stored(step: Attention) -> set[str]:
    """Buffers that the parts of ``step`` write."""
    found: set[str] = set()
    for part in step.steps:
        if isinstance(part, LibraryCall):
            found.add(part.output)
        nest = part.epilogue if isinstance(part, LibraryCall) else part
        found |= set() if nest is None else set(nest.writes())
    return found


def _work(
    steps: Iterable[Single], buffers: Mapping[str, Buffer], read: frozenset[str], written: frozenset[str]
) -> Work:
    touched: dict[str, dict[object, float]] = {}
    stored: dict[str, float] = {}
    flops = library = 0.0
    for step in steps:
        nests: list[LoopNest] = []
        if isinstance(step, LoopNest):
            nests.append(step)
        else:
            for o in step.operands:
                touched.setdefault(o.buffer, {})[(o.offset, o.shape)] = float(math.prod(o.shape))
            for name in step.outputs or (step.output,):
                if name in buffers:
                    stored[name] = float(buffers[name].size)
            library += _library_flops(step, buffers) * max(1, step.repeat)
            if step.epilogue is not None:
                nests.append(step.epilogue)
        for nest in nests:
            flops += _nest(nest, buffers, touched, stored)
    total = 0.0
    for name, counts in touched.items():
        if name in buffers and buffers[name].role in read:
            total += min(float(buffers[name].size), sum(counts.values())) * itemsize(buffers[name].dtype)
    for name, count in stored.items():
        if name in buffers and buffers[name].role in written:
            total += min(float(buffers[name].size), count) * itemsize(buffers[name].dtype)
    return Work(total, flops, library)


def _nest(
    nest: LoopNest,
    buffers: Mapping[str, Buffer],
    touched: dict[str, dict[object, float]],
    stored: dict[str, float],
) -> float:
    """Adds what ``nest`` touches; returns its FLOPs."""
    spans = nest.spans()

    def points(*expressions: Expr) -> float:
        axes: set[str] = set()
        for e in expressions:
            axes |= axes_of(e)
            for v in vars_of(e):
                axes |= spans[v]
        return float(math.prod(nest.extent(a) for a in axes))

    flops = 0.0
    for s in nest.body:
        roots: tuple[Expr, ...]
        if isinstance(s, Contract):
            roots = (s.left, s.right)
            flops += 2 * points(s.left, s.right)
        elif isinstance(s, (Store, Search)):
            roots = (*s.index, s.value)
        else:
            roots = (s.value,)
        if isinstance(s, (Reduce, Scan)) and s.dtype.startswith(("float", "bfloat")):
            flops += points(s.value)
        if isinstance(s, Search) and s.buffer in buffers:
            n = buffers[s.buffer].shape[-1]
            rows = points(*s.index) * n if s.index else float(n)
            visits = points(s.value, *s.index) * math.ceil(math.log2(n + 1))
            touched.setdefault(s.buffer, {})[("search", s.index)] = min(rows, visits)
        if isinstance(s, Store):
            stored[s.buffer] = stored.get(s.buffer, 0.0) + points(*s.index)
        for root in roots:
            for n_ in walk(root):
                if isinstance(n_, Load):
                    touched.setdefault(n_.buffer, {})[n_.index] = points(*n_.index)
                elif isinstance(n_, Op) and n_.name not in _FREE and n_.dtype.startswith(("float", "bfloat")):
                    flops += points(n_)
    return flops


def _library_flops(call: LibraryCall, buffers: Mapping[str, Buffer]) -> float:
    name = call.op.removeprefix("aten::").split(".")[0]
    if name in {"mm", "bmm", "addmm", "baddbmm"}:
        left = call.operands[-2]
        return (
            2.0 * buffers[call.output].size * left.shape[-1]
            if call.output in buffers
            else _product_flops(call)
        )
    if name == "convolution" and call.output in buffers:
        return 2.0 * buffers[call.output].size * math.prod(call.operands[1].shape[1:])
    return 0.0


def _product_flops(call: LibraryCall) -> float:
    left, right = call.operands[-2], call.operands[-1]
    return 2.0 * math.prod(left.shape) * right.shape[-1]
