"""Every construct of the loop IR against PyTorch, at the default schedule and at random ones."""

from __future__ import annotations

import random
from typing import Any

import ir_examples as ex
import pytest
import render_harness as harness
import torch
from ir_examples import ax, f32, i64, load, op, out, tensor, total
from render_harness import nest, program

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import (
    Buffer,
    Const,
    Contract,
    Index,
    Let,
    Load,
    Op,
    Program,
    Reduce,
    Scan,
    Search,
    Store,
    Var,
)
from kevolve_cpu.render import CppRenderer
from kevolve_cpu.spaces import schedule_space


def check(p: Program, inputs: list[Any], expected: Any, points: int = 2, **tolerance: float) -> None:
    """``p`` gives ``expected`` at the default point and at ``points`` random ones."""
    rng = random.Random(0)
    chosen = [{}] + [{s.name: schedule_space(s, None).sample(rng) for s in p.steps} for _ in range(points)]
    for choices in chosen:
        got = harness.load(CppRenderer().render(harness.spec(), [p], choices)).f(*inputs)
        torch.testing.assert_close(
            got, expected, equal_nan=True, **tolerance, msg=lambda m, choices=choices: f"{choices}\n{m}"
        )


def unary(name: str, dtype: str, n: int = 53) -> Program:
    y = Op(name, (Load("x", (ax("i"),), dtype),), dtype)
    return program(
        nest("f", {"i": n}, 1, Store("y", (ax("i"),), y)),
        buffers=[tensor("x", n, dtype=dtype), out("y", n, dtype=dtype)],
    )


def binary(name: str, dtype: str, result: str, n: int = 53) -> Program:
    y = Op(name, (Load("a", (ax("i"),), dtype), Load("b", (ax("i"),), dtype)), result)
    return program(
        nest("f", {"i": n}, 1, Store("y", (ax("i"),), y)),
        buffers=[tensor("a", n, dtype=dtype), tensor("b", n, dtype=dtype, at=1), out("y", n, dtype=result)],
    )


def reduced(combiner: str, dtype: str, result: str, n: int, c: int, accumulate: str = "") -> Program:
    body = (
        Reduce("r", combiner, Load("x", (ax("n"), ax("c")), dtype), ("c",), result, accumulate or dtype),
        Store("y", (ax("n"),), Var("r", result)),
    )
    return program(
        nest("f", {"n": n, "c": c}, 1, *body),
        buffers=[tensor("x", n, c, dtype=dtype), out("y", n, dtype=result)],
    )


UNARY = [
    "neg",
    "abs",
    "sign",
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
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "erf",
    "erfc",
    "lgamma",
]
UNARY += ["sigmoid", "relu", "floor", "ceil", "round", "trunc", "reciprocal", "tanh"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_unary_operators_agree_with_torch(dtype: str) -> None:
    n, x = 53, torch.linspace(-3, 3, 53).to(getattr(torch, dtype))
    body = []
    buffers = [tensor("x", n, dtype=dtype)]
    for name in UNARY:
        body.append(Store(f"y_{name}", (ax("i"),), Op(name, (Load("x", (ax("i"),), dtype),), dtype)))
        buffers.append(out(f"y_{name}", n, dtype=dtype))
    got = harness.run(program(nest("f", {"i": n}, 1, *body), buffers=buffers), [x])
    for name, y in zip(UNARY, got, strict=True):
        wide = x.double()
        function = {"relu": torch.relu, "lgamma": torch.lgamma}.get(name) or getattr(torch, name)
        expected = function(wide).to(x.dtype)
        torch.testing.assert_close(y, expected, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (n, d)
        for n in ("add", "sub", "mul", "min", "max", "remainder", "floordiv", "fmod", "eq", "lt", "pow")
        for d in ("float32", "int64", "int32", "uint8")
        if (n, d) != ("floordiv", "float32")
    ],
)
def test_binary_operators_agree_with_torch(name: str, dtype: str) -> None:
    torch.manual_seed(0)
    if dtype == "float32":
        a, b = torch.randn(53).abs() + 0.1, torch.randn(53)
    else:
        low = 1 if dtype == "uint8" or name == "pow" else -9
        a, b = torch.randint(low, 10, (53,)), torch.randint(1, 4, (53,))
        a, b = a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype))
    torch_name = {"min": "minimum", "max": "maximum", "floordiv": "floor_divide", "mul": "mul"}.get(
        name, name
    )
    expected = getattr(torch, torch_name)(a, b)
    result = "bool" if name in ("eq", "lt") else dtype
    check(binary(name, dtype, result), [a, b], expected, points=0)


@pytest.mark.parametrize("c", [1, 7, 300])
@pytest.mark.parametrize("combiner", ["sum", "prod", "max", "min", "argmax", "argmin"])
def test_row_reductions(combiner: str, c: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, c)
    x[2, c // 2] = float("nan") if combiner not in ("sum", "prod") else 1.0
    result = "int64" if combiner.startswith("arg") else "float32"
    function = {"max": torch.amax, "min": torch.amin}.get(combiner) or getattr(torch, combiner)
    check(reduced(combiner, "float32", result, 5, c), [x], function(x, 1), rtol=1e-4, atol=1e-5)


def test_argmax_of_equal_values_is_the_first() -> None:
    x = torch.zeros(3, 100)
    x[1, 40:] = 2.0
    x[2] = float("-inf")
    check(reduced("argmax", "float32", "int64", 3, 100), [x], torch.tensor([0, 40, 0]), points=6)


@pytest.mark.parametrize("combiner", ["any", "all"])
def test_boolean_reductions(combiner: str) -> None:
    x = torch.zeros(4, 70, dtype=torch.bool)
    x[1], x[2, 69] = True, True
    check(reduced(combiner, "bool", "bool", 4, 70), [x], getattr(torch, combiner)(x, 1), points=4)


@pytest.mark.parametrize("dtype", ["int64", "int32", "float64", "bfloat16", "float16"])
def test_sums_of_other_dtypes(dtype: str) -> None:
    torch.manual_seed(0)
    x = torch.randint(-50, 50, (6, 130)).to(getattr(torch, dtype))
    accumulate = {"int32": "int64", "bfloat16": "float32", "float16": "float32"}.get(dtype, dtype)
    result = "int64" if dtype == "int32" else dtype
    value = Load("x", (ax("n"), ax("c")), dtype)
    if accumulate != dtype:
        value = Op("cast", (value,), accumulate)  # type: ignore[assignment]
    body = (Reduce("r", "sum", value, ("c",), result, accumulate), Store("y", (ax("n"),), Var("r", result)))
    p = program(
        nest("f", {"n": 6, "c": 130}, 1, *body),
        buffers=[tensor("x", 6, 130, dtype=dtype), out("y", 6, dtype=result)],
    )
    check(p, [x], x.sum(1, dtype=getattr(torch, result)))


def test_whole_tensor_sum_is_as_exact_as_a_pairwise_one() -> None:
    torch.manual_seed(0)
    x = torch.rand(1 << 20)
    p = program(
        nest(
            "f", {"i": 1 << 20}, 0, total("s", load("x", ax("i")), "i"), Store("y", (), Var("s", "float32"))
        ),
        buffers=[tensor("x", 1 << 20), out("y")],
    )
    check(p, [x], x.double().sum().float(), points=4, rtol=3e-7, atol=0)


def test_column_sum_streams_rows() -> None:
    torch.manual_seed(0)
    x = torch.randn(1500, 200)
    body = (total("s", load("x", ax("n"), ax("c")), "n"), Store("y", (ax("c"),), Var("s", "float32")))
    p = program(nest("f", {"c": 200, "n": 1500}, 1, *body), buffers=[tensor("x", 1500, 200), out("y", 200)])
    check(p, [x], x.double().sum(0).float(), points=6, rtol=1e-5, atol=1e-4)


def test_reduction_whose_result_spans_an_inner_axis() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 20, 35)
    body = (
        total("m", load("x", ax("b"), ax("c"), ax("p")), "c", combiner="max"),
        total("s", op("mul", Var("m", "float32"), Var("m", "float32")), "p"),
        Store("y", (ax("b"),), Var("s", "float32")),
    )
    p = program(
        nest("f", {"b": 3, "c": 20, "p": 35}, 1, *body), buffers=[tensor("x", 3, 20, 35), out("y", 3)]
    )
    check(p, [x], x.amax(1).square().sum(1), points=6, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("exclusive", "reverse"), [(False, False), (True, False), (False, True)])
def test_scan_along_a_row(exclusive: bool, reverse: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 40)
    body = (
        Scan("r", "sum", load("x", ax("n"), ax("c")), "c", "float32", "float64", exclusive, reverse),
        Store("y", (ax("n"), ax("c")), op("mul", Var("r", "float32"), f32(2.0))),
    )
    p = program(nest("f", {"n": 5, "c": 40}, 1, *body), buffers=[tensor("x", 5, 40), out("y", 5, 40)])
    flipped = x.flip(1) if reverse else x
    sums = flipped.double().cumsum(1)
    sums = sums - flipped if exclusive else sums
    expected = 2 * (sums.flip(1) if reverse else sums)
    check(p, [x], expected.float(), points=4, rtol=1e-5, atol=1e-5)


def test_scan_that_a_later_pass_reads() -> None:
    torch.manual_seed(0)
    x = torch.rand(5, 40)
    body = (
        Scan("r", "sum", load("x", ax("n"), ax("c")), "c", "float32", "float32"),
        total("m", Var("r", "float32"), "c", combiner="max"),
        Store("y", (ax("n"), ax("c")), op("div", Var("r", "float32"), Var("m", "float32"))),
    )
    p = program(nest("f", {"n": 5, "c": 40}, 1, *body), buffers=[tensor("x", 5, 40), out("y", 5, 40)])
    sums = x.cumsum(1)
    check(p, [x], sums / sums.amax(1, keepdim=True), points=4, rtol=1e-5, atol=1e-5)


def test_contraction_is_a_matrix_product() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(9, 33), torch.randn(33, 21)
    body = (
        Contract("z", load("a", ax("m"), ax("k")), load("b", ax("k"), ax("n")), ("k",), "float32", "float32"),
        Store("y", (ax("m"), ax("n")), Var("z", "float32")),
    )
    p = program(
        nest("f", {"m": 9, "n": 21, "k": 33}, 2, *body, anchor="contraction"),
        buffers=[tensor("a", 9, 33), tensor("b", 33, 21, at=1), out("y", 9, 21)],
    )
    check(p, [a, b], a @ b, points=6, rtol=1e-5, atol=1e-5)


def test_masked_load_pads() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 30)
    at = op("sub", ax("c"), i64(2))
    inside = op("logical_and", op("ge", at, i64(0)), op("lt", at, i64(30)), dtype="bool")
    y = Load("x", (ax("n"), at), "float32", inside, f32(7.0))
    p = program(
        nest("f", {"n": 4, "c": 34}, 2, Store("y", (ax("n"), ax("c")), y)),
        buffers=[tensor("x", 4, 30), out("y", 4, 34)],
    )
    check(p, [x], torch.nn.functional.pad(x, (2, 2), value=7.0), points=5)


def test_masked_store_leaves_the_rest() -> None:
    x = torch.randn(50)
    zero = nest("zero", {"i": 50}, 1, Store("y", (ax("i"),), f32(0.0)))
    some = nest(
        "some",
        {"i": 50},
        1,
        Store("y", (ax("i"),), load("x", ax("i")), mask=op("gt", load("x", ax("i")), f32(0.0))),
    )
    p = program(zero, some, buffers=[tensor("x", 50), out("y", 50)])
    check(p, [x], x.relu(), points=5)


@pytest.mark.parametrize("mode", ["add", "max"])
def test_atomic_stores(mode: str) -> None:
    torch.manual_seed(0)
    x, at = torch.randn(500), torch.randint(0, 9, (500,))
    zero = nest("zero", {"i": 9}, 1, Store("y", (ax("i"),), f32(0.0)))
    some = nest(
        "some",
        {"i": 500},
        1,
        Store("y", (load("at", ax("i"), dtype="int64"),), load("x", ax("i")), mode=mode),
    )
    p = program(zero, some, buffers=[tensor("x", 500), tensor("at", 500, dtype="int64", at=1), out("y", 9)])
    expected = torch.zeros(9).scatter_reduce(0, at, x, {"add": "sum", "max": "amax"}[mode])
    check(p, [x, at], expected, points=5, rtol=1e-5, atol=1e-5)


def test_gather_of_rows_reads_whole_vectors() -> None:
    torch.manual_seed(0)
    table, at = torch.randn(11, 40), torch.randint(0, 11, (6,))
    y = Load("table", (load("at", ax("n"), dtype="int64"), ax("c")), "float32")
    p = program(
        nest("f", {"n": 6, "c": 40}, 2, Store("y", (ax("n"), ax("c")), y)),
        buffers=[tensor("table", 11, 40), tensor("at", 6, dtype="int64", at=1), out("y", 6, 40)],
    )
    assert "gather" not in harness.render(p).files["kernel.cpp"]
    check(p, [table, at], table[at], points=4)


def test_index_arithmetic_that_is_not_affine() -> None:
    x = torch.randn(60)
    at = op("remainder", op("add", ax("i"), i64(13)), i64(60))
    p = program(
        nest("f", {"i": 60}, 1, Store("y", (ax("i"),), load("x", at))),
        buffers=[tensor("x", 60), out("y", 60)],
    )
    check(p, [x], x.roll(-13), points=4)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_search_as_searchsorted(right: bool, rows: int) -> None:
    torch.manual_seed(0)
    borders = torch.randint(0, 40, (rows, 37)).sort(1).values.float()
    x = torch.randint(-2, 45, (rows, 100)).float()
    x[0, 3] = float("nan")
    body = (
        Search("r", "borders", (ax("n"),), load("x", ax("n"), ax("c")), right),
        Store("y", (ax("n"), ax("c")), Var("r", "int64")),
    )
    p = program(
        nest("f", {"n": rows, "c": 100}, 2, *body),
        buffers=[
            tensor("borders", rows, 37),
            tensor("x", rows, 100, at=1),
            out("y", rows, 100, dtype="int64"),
        ],
    )
    check(p, [borders, x], torch.searchsorted(borders, x, right=right), points=5)


def test_transposed_and_offset_inputs() -> None:
    x = torch.randn(30, 21).t()
    b = Buffer("x", (21, 30), "float32", "input", (1, 21), "0")
    y = op("mul", load("x", ax("n"), ax("c")), f32(2.0))
    p = program(
        nest("f", {"n": 21, "c": 30}, 2, Store("y", (ax("n"), ax("c")), y)), buffers=[b, out("y", 21, 30)]
    )
    check(p, [x], 2 * x, points=4)
    check(p, [x.contiguous()], 2 * x, points=1)
    check(p, [torch.randn(22, 31)[1:, 1:].copy_(x)], 2 * x, points=1)


def test_extents_of_one() -> None:
    check(ex.softmax(1, 1), [torch.randn(1, 1)], torch.ones(1, 1))
    check(ex.rmsnorm(1, 16), [torch.ones(1, 16), torch.ones(16)], torch.ones(1, 16), rtol=1e-5, atol=1e-5)


def test_bool_storage_and_where() -> None:
    x, flag = torch.randn(45), torch.rand(45) > 0.5
    chosen = op("where", load("flag", ax("i"), dtype="bool"), load("x", ax("i")), f32(-1.0))
    same = op(
        "logical_xor", load("flag", ax("i"), dtype="bool"), op("gt", load("x", ax("i")), f32(0)), dtype="bool"
    )
    p = program(
        nest("f", {"i": 45}, 1, Store("y", (ax("i"),), chosen), Store("z", (ax("i"),), same)),
        buffers=[
            tensor("x", 45),
            tensor("flag", 45, dtype="bool", at=1),
            out("y", 45),
            out("z", 45, dtype="bool"),
        ],
    )
    check(p, [x, flag], (torch.where(flag, x, -1.0), flag ^ (x > 0)), points=4)


@pytest.mark.parametrize("source", ["float32", "float64", "int64", "int32", "bool", "bfloat16", "uint8"])
def test_casts(source: str) -> None:
    targets = ["float32", "float64", "int64", "int32", "bool", "bfloat16", "float16", "int8"]
    x = (torch.arange(37) % 5).to(getattr(torch, source))
    body = [Store(f"y{t}", (ax("i"),), Op("cast", (Load("x", (ax("i"),), source),), t)) for t in targets]
    buffers = [tensor("x", 37, dtype=source), *(out(f"y{t}", 37, dtype=t) for t in targets)]
    got = harness.run(program(nest("f", {"i": 37}, 1, *body), buffers=buffers), [x])
    for y, t in zip(got, targets, strict=True):
        torch.testing.assert_close(y, x.to(getattr(torch, t)))


def test_index_values() -> None:
    value = op("cast", op("add", op("mul", ax("n"), i64(10)), ax("c")), dtype="float32")
    p = program(
        nest("f", {"n": 3, "c": 21}, 2, Store("y", (ax("n"), ax("c")), value)), buffers=[out("y", 3, 21)]
    )
    expected = (torch.arange(3)[:, None] * 10 + torch.arange(21)).float()
    check(p, [], expected, points=3)


def test_what_cannot_be_printed_is_named() -> None:
    p = program(
        nest("f", {"i": 4}, 1, Store("y", (ax("i"),), Load("x", (ax("i"),), "complex64"))),
        buffers=[Buffer("x", (4,), "complex64", "input", None, "0"), out("y", 4)],
    )
    with pytest.raises(UnsupportedError, match="complex64"):
        harness.render(p)
    assert "complex64" in CppRenderer().supports(p.steps[0])


__all__ = ["Const", "Index", "Let", "unary"]
