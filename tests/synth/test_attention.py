"""Attention taken apart, and found again as one step: against PyTorch's operator and users' own parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch.nn.functional import scaled_dot_product_attention as attend

from kevolve_core.ir import (
    Attention,
    Axis,
    Const,
    Expr,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    Program,
    Reduce,
    Single,
    Statement,
    Store,
    Var,
    children,
    walk,
)
from kevolve_core.synth.capture import capture
from kevolve_core.synth.index import rebuild
from kevolve_core.synth.interpret import run_program
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import Partition, synthesise
from kevolve_core.synth.simplify import simplified
from kevolve_core.synth.work import program_work, step_work
from tests.interpreted.attention import ATTENTION

MASK = torch.rand(5, 7) > 0.3
MASK[2] = False  # a query that may see nothing gives zeros
CASES: dict[str, Callable[..., Any]] = {
    "plain": lambda q, k, v: attend(q, k, v),
    "causal": lambda q, k, v: attend(q, k[:, :, :5], v[:, :, :5], is_causal=True),
    "boolean mask": lambda q, k, v: attend(q, k, v, attn_mask=MASK),
    "additive mask": lambda q, k, v: attend(q, k, v, attn_mask=torch.where(MASK, 0.0, -2.0)),
    "scaled": lambda q, k, v: attend(q, k, v, scale=0.3),
    "viewed after": lambda q, k, v: attend(q, k, v).transpose(1, 2).reshape(2, 5, 24),
}
ONE_STEP = Partition(attention=True)


@pytest.mark.parametrize("name", CASES)
def test_attention(check: Callable[..., Any], name: str) -> None:
    program = check(CASES[name], [torch.randn(2, 4, 5, 6), torch.randn(2, 4, 7, 6), torch.randn(2, 4, 7, 6)])
    assert {"aten::bmm"} == {s.op for s in program.steps if isinstance(s, LibraryCall)}


def test_grouped_queries(check: Callable[..., Any]) -> None:
    k = torch.randn(2, 2, 7, 6)
    check(lambda q, k, v: attend(q, k, v, enable_gqa=True), [torch.randn(2, 4, 5, 6), k, torch.randn_like(k)])


def test_from_its_parts(check: Callable[..., Any]) -> None:
    def parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)
        return torch.softmax(scores, -1) @ v

    check(parts, [torch.randn(2, 4, 5, 6) for _ in range(3)])


# --- as one step --------------------------------------------------------------------------------------------


def _replaced(e: Expr, buffer: str, value: Expr) -> Expr:
    """``e`` with ``value`` for what is loaded of ``buffer``."""
    if isinstance(e, Load) and e.buffer == buffer:
        return value if value.dtype == e.dtype else Op("cast", (value,), e.dtype)
    return rebuild(e, [_replaced(c, buffer, value) for c in children(e)]) if children(e) else e


def _float(e: Expr) -> Expr:
    return e if e.dtype == "float32" else Op("cast", (e,), "float32")


def said(a: Attention) -> LoopNest:
    """One nest that computes what ``a`` says of itself, and nothing of what its parts do."""
    hidden = Const(-math.inf, "float32")

    def product(left: Expr, right: Expr) -> Expr:
        return Op("mul", (_float(left), _float(right)), "float32")

    top, total = Var("top", "float32"), Var("total", "float32")
    score = _float(_replaced(a.score, a.product, Var("product", "float32")))
    weight: Expr = Op("div", (Var("power", "float32"), total), "float32")
    if a.safe:
        weight = Op("where", (Op("eq", (top, hidden), "bool"), Const(0.0, "float32"), weight), "float32")
    body: list[Statement] = [
        Reduce("product", "sum", product(a.query, a.key), (a.depth.name,), "float32", "float32"),
        Reduce("top", "max", score, (a.cols.name,), "float32", "float32"),
        Let("power", Op("exp", (Op("sub", (score, top), "float32"),), "float32")),
        Reduce("total", "sum", Var("power", "float32"), (a.cols.name,), "float32", "float32"),
        Reduce("out", "sum", product(weight, a.value), (a.cols.name,), "float32", "float32"),
    ]
    for s in a.result.body:
        if isinstance(s, Let):
            body.append(evolve(s, value=_replaced(s.value, a.output, Var("out", "float32"))))
        else:
            assert isinstance(s, Store)
            value = _replaced(s.value, a.output, Var("out", "float32"))
            body.append(evolve(s, value=value))
    axes: tuple[Axis, ...] = (a.batch, a.rows, a.cols, a.depth, a.width)
    return LoopNest(a.name, axes, 2, tuple(body))


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_found_and_says_what_its_parts_compute(lower: Callable[..., Any], name: str) -> None:
    function, make = ATTENTION[name]
    inputs = make()
    made = lower(function, inputs, ONE_STEP)
    program: Program = made.program
    found = [s for s in program.steps if isinstance(s, Attention)]
    assert [s.name for s in found] == list(made.attentions)
    assert len(found) == 1
    others = {s.op for s in program.steps if isinstance(s, LibraryCall)}
    assert others == ({"aten::mm"} if "projected" in name else set())
    steps = tuple(said(s) if isinstance(s, Attention) else s for s in program.steps)
    want = function(*inputs)
    tolerance = {torch.float16: 4e-3, torch.bfloat16: 3e-2}.get(want.dtype, 2e-5)
    for each in (program, evolve(program, steps=steps)):
        got = run_program(each, inputs)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_attention_alone_is_one_step(lower: Callable[..., Any]) -> None:
    function, make = ATTENTION["grouped attention in half precision"]
    assert [type(s) for s in lower(function, make(), ONE_STEP).program.steps] == [Attention]


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("attention", (None, None)),
        ("causal attention", (None, 0)),
        ("causal attention by hand", (None, 0)),
        ("attention in a window", (-9, 0)),
        ("attention under a mask", (None, None)),
    ],
)
def test_what_a_mask_hides_is_known(
    lower: Callable[..., Any], name: str, sees: tuple[int | None, int | None]
) -> None:
    function, make = ATTENTION[name]
    (step,) = (s for s in lower(function, make(), ONE_STEP).program.steps if isinstance(s, Attention))
    assert step.sees == sees


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("causal attention", True),
        ("causal attention by hand", True),
        ("attention in a window", True),
        ("attention under a mask", False),
        ("attention", False),
    ],
)
def test_a_mask_of_positions_alone_can_be_left_out(lower: Callable[..., Any], name: str, alone: bool) -> None:
    function, make = ATTENTION[name]
    (step,) = (s for s in lower(function, make(), ONE_STEP).program.steps if isinstance(s, Attention))
    assert (step.unmasked is not None) == alone
    if step.unmasked is not None:
        assert not any(
            isinstance(e, Op) and e.name in ("where", "le", "ge", "lt") for e in walk(step.unmasked)
        )


def test_a_bounded_score_keeps_its_mask(lower: Callable[..., Any]) -> None:
    """What tanh makes of -inf is no score of -inf."""

    def bounded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = torch.tanh(q @ k.mT).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)
        return torch.softmax(scores, -1) @ v

    x = torch.randn(2, 5, 6)
    (step,) = lower(bounded, [x, x.clone(), x.clone()], ONE_STEP).program.steps
    assert (step.sees, step.unmasked) == ((None, 0), None)


OTHERS: dict[str, Callable[..., Any]] = {
    "scores are returned": lambda q, k, v: (torch.softmax(q @ k.mT, -1) @ v, q @ k.mT),
    "weights are returned": lambda q, k, v: (torch.softmax(q @ k.mT, -1) @ v, torch.softmax(q @ k.mT, -1)),
    "over queries": lambda q, k, v: torch.softmax(q @ k.mT, -2) @ v,
    "no softmax": lambda q, k, v: torch.relu(q @ k.mT) @ v,
    "weights are squared": lambda q, k, v: torch.softmax(q @ k.mT, -1).square() @ v,
    "other weights": lambda q, k, v: torch.softmax(q @ k.mT, -1).mT @ q + v,
    "double precision": lambda q, k, v: torch.softmax(q.double() @ k.double().mT, -1) @ v.double(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_attention_stays_as_it_is(check: Callable[..., Any], name: str) -> None:
    inputs = [torch.randn(2, 5, 6), torch.randn(2, 7, 6), torch.randn(2, 7, 6)]
    program = check(OTHERS[name], inputs, ONE_STEP)
    assert not any(isinstance(s, Attention) for s in program.steps)


def test_a_partition_leaves_attention_in_parts(lower: Callable[..., Any]) -> None:
    function, make = ATTENTION["attention"]
    inputs = make()
    made, fused = lower(function, inputs), lower(function, inputs, ONE_STEP)
    assert made.attentions == fused.attentions == ("attention_bmm_1",)
    assert made.program.steps == tuple(fused.program.singles())


def test_the_rewrite_can_be_turned_off() -> None:
    function, make = ATTENTION["attention"]
    graph = capture(function, make(), keep=TABLE)
    made = synthesise(simplified(graph, without=["online_attention"]), "case", ONE_STEP)
    assert (made.attentions, any(isinstance(s, Attention) for s in made.program.steps)) == ((), False)


def test_scores_are_no_work_of_the_step(lower: Callable[..., Any]) -> None:
    """It reads and writes what the whole program does: operands and result, and the FLOPs are the same."""
    function, make = ATTENTION["attention"]
    inputs = make()
    program = lower(function, inputs, ONE_STEP).program
    whole, (step,) = program_work(program), program.steps
    moved = 4.0 * (sum(x.numel() for x in inputs) + function(*inputs).numel())
    assert whole.bytes == step_work(step, program.buffers).bytes == moved
    assert whole == program_work(lower(function, inputs).program)


def test_two_attentions_are_two_steps(lower: Callable[..., Any]) -> None:
    def twice(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(attend(q, k, v), k, v)

    x = torch.randn(1, 2, 9, 8)
    steps: list[Single] = lower(twice, [x, x.clone(), x.clone()], ONE_STEP).program.steps
    assert [type(s) for s in steps] == [Attention, Attention]
