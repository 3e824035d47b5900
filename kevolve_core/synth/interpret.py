"""Evaluates a `Program` with PyTorch, vectorised over all loops: the oracle for tests of lowering.

It follows the loop IR's definition and nothing else, so it is also the reading that settles what the IR
means. Memory is that of every loop's full domain: for small shapes only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Program,
    Reduce,
    Scan,
    Search,
    Statement,
    Store,
    Var,
)

__all__ = ["run_program"]


def run_program(
    program: Program, inputs: Sequence[Any], params: Mapping[str, torch.Tensor] | None = None
) -> Any:
    """The reference's result as ``program`` computes it.

    Args:
        program: one case, lowered.
        inputs: the reference's arguments, in order (scalars are ignored: they are baked in).
        params: state_dict of the reference's module.
    """
    memory = _Memory(program, inputs, params or {})
    for step in program.singles():
        if isinstance(step, LoopNest):
            _Nest(step, memory).run()
        elif step.repeat:
            for t in range(step.repeat):
                _call(step, memory, t)
                if step.epilogue is not None:
                    _Nest(step.epilogue, memory, t).run()
        else:
            _call(step, memory)
            if step.epilogue is not None:
                _Nest(step.epilogue, memory).run()
    leaves = [
        torch.as_strided(memory.data[o.buffer], o.shape, o.strides, o.offset).clone() for o in program.outputs
    ]
    return _filled(program.structure, leaves)


def _filled(structure: Any, leaves: Sequence[torch.Tensor]) -> Any:
    if isinstance(structure, int):
        return leaves[structure]
    if isinstance(structure, dict):
        return {k: _filled(v, leaves) for k, v in structure.items()}
    return type(structure)(_filled(v, leaves) for v in structure)


def _dtype(name: str) -> torch.dtype:
    kind = getattr(torch, name)
    assert isinstance(kind, torch.dtype)
    return kind


class _Memory:
    """Flat storage of every buffer."""

    def __init__(self, program: Program, inputs: Sequence[Any], params: Mapping[str, torch.Tensor]) -> None:
        self.buffers = program.buffers
        self.data: dict[str, torch.Tensor] = {}
        for b in program.buffers.values():
            if b.role == "input":
                self.data[b.name] = _storage(inputs[int(b.source)], b)
            elif b.role == "param":
                self.data[b.name] = _storage(params[b.source], b)
            elif b.role == "constant":
                self.data[b.name] = torch.tensor(b.data, dtype=_dtype(b.dtype))
            else:
                self.data[b.name] = _poisoned(_extent(b), b.dtype)


def _storage(value: torch.Tensor, b: Buffer) -> torch.Tensor:
    """The elements of ``value`` laid out as its buffer declares."""
    if tuple(value.shape) != b.shape:
        raise UnsupportedError(
            f"argument {b.name} has another shape", got=tuple(value.shape), mend=str(b.shape)
        )
    if b.strides is None:
        return value.detach().contiguous().reshape(-1)
    flat = _poisoned(_extent(b), b.dtype)
    torch.as_strided(flat, b.shape, b.strides).copy_(value.detach())
    return flat


def _extent(b: Buffer) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(b.shape, b.stride, strict=True)) if b.size else 0


def _poisoned(n: int, dtype: str) -> torch.Tensor:
    kind = _dtype(dtype)
    if kind.is_floating_point or kind.is_complex:
        return torch.full((n,), math.nan, dtype=kind)
    return (
        torch.ones(n, dtype=kind)
        if kind == torch.bool
        else torch.full((n,), torch.iinfo(kind).max, dtype=kind)
    )


def _call(step: LibraryCall, memory: _Memory, time: int = 0) -> None:
    moves = [time * a for a in step.advance] or [0] * len(step.operands)
    views = [
        torch.as_strided(memory.data[o.buffer], o.shape, o.strides, o.offset + move)
        for o, move in zip(step.operands, moves, strict=True)
    ]

    name = step.op.removeprefix("aten::")
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    taken: set[int] = set()

    def argument(value: Any) -> Any:
        if isinstance(value, Mapping):
            taken.add(value["operand"])
            return views[value["operand"]]
        if isinstance(value, str) and value.startswith("torch."):
            return _dtype(value.removeprefix("torch."))
        return [argument(v) for v in value] if isinstance(value, (list, tuple)) else value

    kwargs = {k: argument(v) for k, v in step.attributes.items()}
    rest = [v for k, v in enumerate(views) if k not in taken]
    for a in operator._schema.arguments:
        if "Tensor" in str(a.type) and a.name not in kwargs and rest:
            if "List[" in str(a.type):
                kwargs[a.name], rest = rest, []
            else:
                kwargs[a.name] = rest.pop(0)
    result = operator(**kwargs)
    results = result if isinstance(result, (list, tuple)) else (result,)
    if step.order:
        results = (results[0].permute(step.order),)
    for target, value in zip(step.outputs or (step.output,), results, strict=False):
        if target:
            memory.data[target] = _storage(value, memory.buffers[target])


class _Nest:
    """One nest: every value is a tensor with one dimension a loop (extent 1 where it does not span it). With
    ``time`` at that point of its first axis only."""

    def __init__(self, nest: LoopNest, memory: _Memory, time: int | None = None) -> None:
        self.time = time
        self.nest = nest
        self.memory = memory
        self.names = [a.name for a in nest.axes]
        self.extents = [a.extent for a in nest.axes]
        self.values: dict[str, torch.Tensor] = {}
        self.memo: dict[Expr, torch.Tensor] = {}

    def run(self) -> None:
        for s in self.nest.body:
            self._statement(s)

    def _statement(self, s: Statement) -> None:
        if isinstance(s, Let):
            self.values[s.name] = self.at(s.value)
        elif isinstance(s, Reduce):
            self.values[s.name] = self._reduced(s)
        elif isinstance(s, Scan):
            self.values[s.name] = self._scanned(s)
        elif isinstance(s, Search):
            self.values[s.name] = self._searched(s)
        elif isinstance(s, Store):
            self._store(s)
        else:
            self.values[s.name] = (self._full(s.left, s.axes) * self._full(s.right, s.axes)).sum(
                self._dims(s.axes), keepdim=True
            )

    def _dims(self, axes: Sequence[str]) -> list[int]:
        return [self.names.index(a) for a in axes]

    def _full(self, e: Expr, axes: Sequence[str]) -> torch.Tensor:
        x = self.at(e)
        shape = [n if a in axes else m for a, n, m in zip(self.names, self.extents, x.shape, strict=True)]
        return x.expand(shape)

    def _reduced(self, s: Reduce) -> torch.Tensor:
        x = self._full(s.value, s.axes)
        if s.combiner in {"sum", "prod"}:
            x = x.to(_dtype(s.accumulate))
        dims = self._dims(s.axes)
        if s.combiner == "sum":
            out = x.sum(dims, keepdim=True, dtype=x.dtype)
        elif s.combiner == "prod":
            out = x
            for d in dims:
                out = out.prod(d, keepdim=True, dtype=x.dtype)
        elif s.combiner in {"any", "all"}:
            out = x.any(dims, keepdim=True) if s.combiner == "any" else x.all(dims, keepdim=True)
        elif s.combiner in {"max", "min"}:
            out = x.amax(dims, keepdim=True) if s.combiner == "max" else x.amin(dims, keepdim=True)
        else:
            rest = [d for d in range(x.dim()) if d not in dims]
            flat = x.permute([*rest, *dims]).reshape([*(x.shape[d] for d in rest), -1])
            if s.combiner == "argmax":
                found = flat.argmax(-1) if flat.dtype != torch.bool else flat.byte().argmax(-1)
            else:
                found = flat.argmin(-1) if flat.dtype != torch.bool else flat.byte().argmin(-1)
            out = found.reshape([1 if d in dims else x.shape[d] for d in range(x.dim())])
        return out.to(_dtype(s.dtype))

    def _scanned(self, s: Scan) -> torch.Tensor:
        d = self.names.index(s.axis)
        x = self._full(s.value, [s.axis]).to(_dtype(s.accumulate))
        x = x.flip(d) if s.reverse else x
        run: dict[str, Callable[..., Any]] = {
            "sum": lambda t: t.cumsum(d, dtype=t.dtype),
            "prod": lambda t: t.cumprod(d, dtype=t.dtype),
            "max": lambda t: t.cummax(d).values,
            "min": lambda t: t.cummin(d).values,
        }
        out = run[s.combiner](x)
        if s.exclusive:
            first = (
                torch.zeros_like(out.narrow(d, 0, 1))
                if s.combiner == "sum"
                else torch.ones_like(out.narrow(d, 0, 1))
            )
            out = torch.cat([first, out.narrow(d, 0, out.shape[d] - 1)], d)
        out = out.flip(d) if s.reverse else out
        assert isinstance(out, torch.Tensor)
        return out.to(_dtype(s.dtype))

    def _searched(self, s: Search) -> torch.Tensor:
        b = self.memory.buffers[s.buffer]
        value = self.at(s.value)
        start = self._offset(s.index, b.stride[:-1])
        n, step = b.shape[-1], b.stride[-1]
        at = start.unsqueeze(-1) + torch.arange(n) * step
        shape = torch.broadcast_shapes(at.shape[:-1], value.shape)
        rows = self.memory.data[s.buffer][at].expand(*shape, n).contiguous()
        found = torch.searchsorted(rows, value.expand(shape).unsqueeze(-1).contiguous(), right=s.right)
        return found.squeeze(-1)

    def _offset(self, index: Sequence[Expr], strides: Sequence[int]) -> torch.Tensor:
        total = torch.zeros([1] * len(self.names), dtype=torch.int64)
        for e, step in zip(index, strides, strict=True):
            total = total + self.at(e).to(torch.int64) * step
        return total

    def _store(self, s: Store) -> None:
        b = self.memory.buffers[s.buffer]
        value = self.at(s.value)
        offset = self._offset(s.index, b.stride)
        shape = torch.broadcast_shapes(offset.shape, value.shape)
        flat, values = offset.expand(shape).reshape(-1), value.expand(shape).reshape(-1)
        if s.mask is not None:
            keep = self.at(s.mask).expand(shape).reshape(-1)
            flat, values = flat[keep], values[keep]
        if values.dtype != self.memory.data[s.buffer].dtype:
            raise UnsupportedError("a store's value has another dtype than its buffer", got=s.buffer)
        if s.mode == "set":
            self.memory.data[s.buffer][flat] = values
        else:
            mode = {"add": "sum", "max": "amax", "min": "amin"}[s.mode]
            self.memory.data[s.buffer].scatter_reduce_(0, flat, values, mode)

    # --- expressions ----------------------------------------------------------------------------------------

    def at(self, e: Expr) -> torch.Tensor:
        if isinstance(e, Var):
            return self.values[e.name]
        if (found := self.memo.get(e)) is None:
            found = self._evaluate(e)
            if found.dtype != _dtype(e.dtype):
                raise UnsupportedError(
                    "an expression's value has another dtype than it declares", got=str(e)[:200]
                )
            self.memo[e] = found
        return found

    def _evaluate(self, e: Expr) -> torch.Tensor:
        ones = [1] * len(self.names)
        if isinstance(e, Const):
            return torch.full(ones, e.value, dtype=_dtype(e.dtype))
        if isinstance(e, Index):
            d = self.names.index(e.axis)
            if d == 0 and self.time is not None:
                return torch.full(ones, self.time)
            return torch.arange(self.extents[d]).reshape([*ones[:d], -1, *ones[d + 1 :]])
        if isinstance(e, Load):
            return self._load(e)
        assert isinstance(e, Op)
        args = [self.at(a) for a in e.args]
        if e.name == "cast":
            return args[0].to(_dtype(e.dtype))
        return _OPS[e.name](*args)

    def _load(self, e: Load) -> torch.Tensor:
        b = self.memory.buffers[e.buffer]
        data = self.memory.data[e.buffer]
        offset = self._offset(e.index, b.stride)
        if e.mask is None:
            return data[offset]
        mask = self.at(e.mask)
        assert e.other is not None
        shape = torch.broadcast_shapes(offset.shape, mask.shape)
        safe = torch.where(mask.expand(shape), offset.expand(shape), torch.zeros((), dtype=torch.int64))
        return torch.where(mask, data[safe], self.at(e.other))


def _floordiv(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode="floor")


_OPS: dict[str, Callable[..., torch.Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in [
            "add",
            "sub",
            "mul",
            "div",
            "remainder",
            "fmod",
            "pow",
            "atan2",
            "copysign",
            "hypot",
            "neg",
            "abs",
            "sign",
            "reciprocal",
            "sqrt",
            "rsqrt",
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "tanh",
            "asinh",
            "acosh",
            "atanh",
            "erf",
            "erfc",
            "lgamma",
            "sigmoid",
            "relu",
            "floor",
            "ceil",
            "round",
            "trunc",
            "isnan",
            "isinf",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "logical_and",
            "logical_or",
            "logical_xor",
            "logical_not",
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
            "bitwise_not",
            "where",
        ]
    },
    "min": torch.minimum,
    "max": torch.maximum,
    "floordiv": _floordiv,
    "shift_left": torch.bitwise_left_shift,
    "shift_right": torch.bitwise_right_shift,
    "fma": lambda a, b, c: a * b + c,
}
