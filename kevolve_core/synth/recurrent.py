"""Recurrent layers as one operator a layer and direction: captured whole, not step by step.

While a reference is traced, `torch.lstm`, `torch.gru` and `torch.rnn_*` become projections of the whole
sequence and one ``kevolve::`` operator that takes them through time; lowering turns that operator into a
product and a nest that run once a step (`kevolve_core.ir.LibraryCall.repeat`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen

from kevolve_core.ir import Axis, Expr, Index, Load, LoopNest, Op, Statement, Store
from kevolve_core.synth.index import ZERO, integer
from kevolve_core.synth.lower.core import TABLE, Lowering, Value, cast, wide

__all__ = ["OPERATORS", "Cell", "cell_of", "layer"]

#: Gates a cell has, by operator.
OPERATORS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

_LIBRARY = torch.library.Library("kevolve", "FRAGMENT")
_LIBRARY.define("lstm(Tensor gates, Tensor weight, Tensor? bias, Tensor h, Tensor c) -> (Tensor, Tensor)")
for _name in ("gru", "rnn_tanh", "rnn_relu"):
    _LIBRARY.define(f"{_name}(Tensor gates, Tensor weight, Tensor? bias, Tensor h) -> Tensor")


def _states(gates: torch.Tensor, _weight: Any, _bias: Any, h: torch.Tensor) -> torch.Tensor:
    return gates.new_empty((gates.shape[0] + 1, *h.shape))


_LIBRARY.impl("lstm", lambda g, w, b, h, c: (_states(g, w, b, h), _states(g, w, b, c)), "Meta")
for _name in ("gru", "rnn_tanh", "rnn_relu"):
    _LIBRARY.impl(_name, _states, "Meta")


def layer(
    name: str,
    x: torch.Tensor,
    state: Any,
    weights: Sequence[torch.Tensor],
    bias: bool,
    layers: int,
    dropout: float,
    training: bool,
    both: bool,
    batch_first: bool,
) -> Any:
    """What ``torch.lstm`` and its kin return for these arguments, or None where they need another form (a
    projection of the hidden state, dropout between layers)."""
    directions = 2 if both else 1
    each = 4 if bias else 2
    if len(weights) != layers * directions * each or (dropout and training) or x.dim() != 3:
        return None
    h0, c0 = state if name == "lstm" else (state, None)
    run = getattr(torch.ops.kevolve, name)
    x = x.transpose(0, 1) if batch_first else x
    last_h: list[torch.Tensor] = []
    last_c: list[torch.Tensor] = []
    for k in range(layers):
        outs: list[torch.Tensor] = []
        for d in range(directions):
            n = k * directions + d
            w = weights[n * each : (n + 1) * each]
            gates = F.linear(x, w[0], w[2] if bias else None)
            gates = gates.flip(0) if d else gates
            extra = (c0[n],) if c0 is not None else ()
            found = run(gates, w[1], w[3] if bias else None, h0[n], *extra)
            hs = found[0] if c0 is not None else found
            last_h.append(hs[-1])
            if c0 is not None:
                last_c.append(found[1][-1])
            out = hs[1:]
            outs.append(out.flip(0) if d else out)
        x = torch.cat(outs, -1) if both else outs[0]
    x = x.transpose(0, 1) if batch_first else x
    h = torch.stack(last_h)
    return (x, h, torch.stack(last_c)) if name == "lstm" else (x, h)


# --- lowering -------------------------------------------------------------------------------------------


def _register(name: str) -> None:
    def rule(
        lowering: Lowering, gates: Value, weight: Value, bias: Value | None, h: Value, c: Value | None = None
    ) -> Any:
        node = lowering.node
        assert node is not None
        args = {"gates": gates, "weight": weight, "bias": bias, "h": h, "c": c}
        return lowering.library(f"kevolve::{name}", {k: v for k, v in args.items() if v is not None}, node)

    TABLE[f"kevolve.{name}.default"] = rule


for _name in OPERATORS:
    _register(_name)

Reader = Callable[[str, Sequence[Expr]], Expr]


@frozen
class Cell:
    """The nests of one recurrence: ``first`` puts the initial state in place; ``step`` computes a step a
    point of its first axis, from the product of the state before and the weights."""

    first: LoopNest
    step: LoopNest


def cell_of(
    name: str,
    read: Reader,
    sizes: tuple[int, int, int],
    dtype: str,
    states: Sequence[str],
    has_bias: bool,
    covers: tuple[str, ...],
    label: str,
) -> Cell:
    """The cell of operator ``name`` over (steps, batch, hidden).

    Args:
        read: the element of ``gates``, ``product``, ``bias``, ``h`` or ``c`` at an index.
        dtype: of the tensors.
        states: buffers of the hidden state and, for an LSTM, the cell state, each with a row more than steps.
    """
    steps, batch, hidden = sizes
    compute = wide(dtype)
    t, b, j = Index("i0"), Index("i1"), Index("j0")
    after = Op("add", (t, integer(1)), "int64")

    def wide_read(what: str, *index: Expr) -> Expr:
        return cast(read(what, index), compute)

    def column(gate: int) -> Expr:
        return Op("add", (j, integer(gate * hidden)), "int64") if gate else j

    def given(gate: int) -> Expr:
        return wide_read("gates", t, b, column(gate))

    def carried(gate: int) -> Expr:
        e = wide_read("product", b, column(gate))
        return Op("add", (e, wide_read("bias", column(gate))), compute) if has_bias else e

    def add(x: Expr, y: Expr) -> Expr:
        return Op("add", (x, y), compute)

    def mul(x: Expr, y: Expr) -> Expr:
        return Op("mul", (x, y), compute)

    def one(f: str, x: Expr) -> Expr:
        return Op(f, (x,), compute)

    def state(k: int, row: Expr) -> Expr:
        return cast(Load(states[k], (row, b, j), dtype), compute)

    body: list[Statement]
    if name == "lstm":
        i, f, g, o = (add(given(k), carried(k)) for k in range(4))
        c = add(mul(one("sigmoid", f), state(1, t)), mul(one("sigmoid", i), one("tanh", g)))
        h = mul(one("sigmoid", o), one("tanh", c))
        body = [
            Store(states[1], (after, b, j), cast(c, dtype)),
            Store(states[0], (after, b, j), cast(h, dtype)),
        ]
    elif name == "gru":
        r, z = (one("sigmoid", add(given(k), carried(k))) for k in range(2))
        n = one("tanh", add(given(2), mul(r, carried(2))))
        h = add(n, mul(z, Op("sub", (state(0, t), n), compute)))  # as ATen's cell rounds
        body = [Store(states[0], (after, b, j), cast(h, dtype))]
    else:
        h = one("tanh" if name == "rnn_tanh" else "relu", add(given(0), carried(0)))
        body = [Store(states[0], (after, b, j), cast(h, dtype))]
    axes = (Axis("i0", steps), Axis("i1", batch), Axis("j0", hidden))
    step = LoopNest(f"k_{label}_step", axes, 2, tuple(body), covers, "recurrence")
    row, place = Index("i0"), Index("j0")
    starts = tuple(
        Store(buffer, (ZERO, row, place), read(what, (row, place)))
        for buffer, what in zip(states, ("h", "c"), strict=False)
    )
    first = LoopNest(
        f"k_{label}_first", (Axis("i0", batch), Axis("j0", hidden)), 1, starts, covers, "pointwise"
    )
    for nest in (first, step):
        nest.validate()
    return Cell(first, step)
