"""A nest as straight-line code, and what a simple renderer prints as a table."""

from __future__ import annotations

import pytest

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Axis,
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    LibraryCall,
    Load,
    LoopNest,
    Op,
    OutputRef,
    Program,
    Reduce,
    Statement,
    Store,
    Subset,
    Var,
    linear,
)

F = "float32"
BUFFERS = {n: Buffer(n, (4, 8), F, role) for n, role in (("x", "input"), ("y", "output"))}
BUFFERS["rows"] = Buffer("rows", (4,), F, "output")
X = Load("x", (Index("i"), Index("j")), F)
TABLE = Subset("the toy", operators={"add", "mul"}, combiners={"sum"}, dtypes={F, "int64"})


def nest(*body: Statement) -> LoopNest:
    return LoopNest("n", (Axis("i", 4), Axis("j", 8)), 1, body)


def stored(value: Expr, **options: object) -> Store:
    return Store("y", (Index("i"), Index("j")), value, **options)  # type: ignore[arg-type]


def test_equal_expressions_share_a_register_and_accesses_have_a_stride_a_loop() -> None:
    code = list(linear(nest(stored(Op("mul", (X, X), F))), BUFFERS))
    assert [(i.register, type(i.node).__name__, i.operands) for i in code] == [
        ("r0", "Load", ()),
        ("r1", "Op", ("r0", "r0")),
        ("", "Store", ("r1",)),
    ]
    assert code[0].address == code[2].address == (0, (8, 1))


def test_a_reduction_names_its_loops_and_its_value_is_used_by_name() -> None:
    total = Reduce("total", "sum", X, ("j",), F, F)
    code = list(linear(nest(total, Store("rows", (Index("i"),), Var("total", F))), BUFFERS))
    assert [(i.register, i.operands, i.loops) for i in code] == [
        ("r0", (), ()),
        ("r1", ("r0",), (1,)),
        ("", ("r1",), ()),
    ]
    assert code[2].address == (0, (1, 0))


def test_what_was_stored_to_is_loaded_anew() -> None:
    y = Load("y", (Index("i"), Index("j")), F)
    body = (stored(Op("add", (y, X), F)), Let("again", y), stored(Op("mul", (Var("again", F), X), F)))
    loads = [i.node.buffer for i in linear(nest(*body), BUFFERS) if isinstance(i.node, Load)]
    assert loads == ["y", "x", "y"]


@pytest.mark.parametrize(
    "body",
    [
        (stored(Op("cast", (Index("i"),), F)),),
        (stored(X, mask=Const(True, "bool")),),
        (stored(Load("x", (Load("x", (), "int64"), Index("j")), F)),),
    ],
    ids=["index", "mask", "gather"],
)
def test_what_is_no_straight_line_code_is_refused_by_both(body: tuple[Statement, ...]) -> None:
    assert TABLE.refusal(nest(*body)).startswith("the toy has no ")
    with pytest.raises(ValueError, match="n: "):
        list(linear(nest(*body), BUFFERS))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (nest(stored(X)), ""),
        (nest(stored(Op("exp", (X,), F))), "the toy has no operator 'exp'"),
        (nest(stored(Const(1.0, "float64"))), "the toy has no element type float64"),
        (nest(Reduce("m", "max", X, ("j",), F, F)), "the toy has no reduction 'max'"),
        (nest(stored(X, mode="add")), "the toy has no atomic 'add'"),
        (LibraryCall("mm", "aten::mm", (), "y"), "the toy calls no library, and this needs aten::mm"),
    ],
)
def test_a_refusal_says_what_is_missing(step: LoopNest | LibraryCall, reason: str) -> None:
    assert TABLE.refusal(step) == reason


def test_a_program_outside_of_the_table_raises_with_its_step() -> None:
    program = Program("main", BUFFERS, (nest(stored(Op("exp", (X,), F))),), (OutputRef("y", (4, 8), (8, 1)),))
    with pytest.raises(UnsupportedError, match="spec, case main, step n"):
        TABLE.require(program, "spec")


def test_with_gathers_masks_and_indices_are_values_like_others() -> None:
    table = Subset("it", operators={"cast"}, combiners=(), dtypes={F, "int64", "bool"}, gathers=True)
    assert table.refusal(nest(stored(Op("cast", (Index("i"),), F), mask=Const(True, "bool")))) == ""
    assert table.refusal(nest(stored(X, mask=Op("lt", (X, X), "bool")))) == "it has no operator 'lt'"
