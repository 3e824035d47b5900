"""Loop IR programs built by hand: the spine's examples and every construct of the IR."""

from __future__ import annotations

from render_harness import nest, program

from kevolve_core.ir import (
    Buffer,
    Const,
    Expr,
    Index,
    Let,
    LibraryCall,
    Load,
    Op,
    Operand,
    Program,
    Reduce,
    Search,
    Store,
    Var,
)


def ax(name: str) -> Index:
    return Index(name)


def op(name: str, *args: Expr, dtype: str = "") -> Op:
    compare = name in ("eq", "ne", "lt", "le", "gt", "ge")
    return Op(name, args, dtype or ("bool" if compare else args[-1].dtype))


def f32(x: float) -> Const:
    return Const(x, "float32")


def i64(x: int) -> Const:
    return Const(x, "int64")


def load(buffer: str, *index: Expr, dtype: str = "float32") -> Load:
    return Load(buffer, index, dtype)


def total(name: str, value: Expr, *axes: str, combiner: str = "sum") -> Reduce:
    return Reduce(name, combiner, value, axes, value.dtype, value.dtype)


def tensor(name: str, *shape: int, dtype: str = "float32", at: int = 0, role: str = "input") -> Buffer:
    return Buffer(name, shape, dtype, role, source=str(at))


def out(name: str, *shape: int, dtype: str = "float32", role: str = "output") -> Buffer:
    return Buffer(name, shape, dtype, role)


def rmsnorm(n: int, c: int, eps: float = 1e-6) -> Program:
    x = load("x", ax("n"), ax("c"))
    body = (
        total("squares", op("mul", x, x), "c"),
        Let("scale", op("rsqrt", op("add", op("div", Var("squares", "float32"), f32(c)), f32(eps)))),
        Store("y", (ax("n"), ax("c")), op("mul", op("mul", x, Var("scale", "float32")), load("w", ax("c")))),
    )
    return program(
        nest("rmsnorm", {"n": n, "c": c}, 1, *body, anchor="normalization"),
        buffers=[tensor("x", n, c), tensor("w", c, at=1), out("y", n, c)],
    )


def softmax(n: int, c: int) -> Program:
    x = load("x", ax("n"), ax("c"))
    body = (
        total("m", x, "c", combiner="max"),
        Let("e", op("exp", op("sub", x, Var("m", "float32")))),
        total("s", Var("e", "float32"), "c"),
        Store("y", (ax("n"), ax("c")), op("div", Var("e", "float32"), Var("s", "float32"))),
    )
    return program(
        nest("softmax", {"n": n, "c": c}, 1, *body, anchor="normalization"),
        buffers=[tensor("x", n, c), out("y", n, c)],
    )


def softmax_dim1(b: int, c: int, hw: int) -> Program:
    x = load("x", ax("b"), ax("c"), ax("p"))
    body = (
        total("m", x, "c", combiner="max"),
        Let("e", op("exp", op("sub", x, Var("m", "float32")))),
        total("s", Var("e", "float32"), "c"),
        Store("y", (ax("b"), ax("c"), ax("p")), op("div", Var("e", "float32"), Var("s", "float32"))),
    )
    return program(
        nest("softmax", {"b": b, "p": hw, "c": c}, 2, *body, anchor="normalization"),
        buffers=[tensor("x", b, c, hw), out("y", b, c, hw)],
    )


def cross_entropy(n: int, c: int) -> Program:
    x = load("x", ax("n"), ax("c"))
    target = load("t", ax("n"), dtype="int64")
    picked = Load("x", (ax("n"), target), "float32")
    body = (
        total("m", x, "c", combiner="max"),
        total("s", op("exp", op("sub", x, Var("m", "float32"))), "c"),
        Store(
            "row",
            (ax("n"),),
            op("sub", op("add", op("log", Var("s", "float32")), Var("m", "float32")), picked),
        ),
    )
    mean = (
        total("sum", load("row", ax("n")), "n"),
        Store("y", (), op("div", Var("sum", "float32"), f32(n))),
    )
    return program(
        nest("losses", {"n": n, "c": c}, 1, *body, anchor="reduction"),
        nest("mean", {"n": n}, 0, *mean, anchor="reduction"),
        buffers=[
            tensor("x", n, c),
            tensor("t", n, dtype="int64", at=1),
            out("row", n, role="temp"),
            out("y"),
        ],
    )


def group_norm_silu(b: int, g: int, c: int, hw: int, eps: float = 1e-5) -> Program:
    """x is [b, g * c, hw]."""
    channel = op("add", op("mul", ax("g"), i64(c)), ax("c"))
    x = load("x", ax("b"), channel, ax("p"))
    mean, var = Var("mean", "float32"), Var("var", "float32")
    count = f32(c * hw)
    centred = op("sub", x, mean)
    y = op(
        "add",
        op("mul", op("mul", centred, Var("inv", "float32")), load("w", channel)),
        load("bias", channel),
    )
    body = (
        total("sum", x, "c", "p"),
        Let("mean", op("div", Var("sum", "float32"), count)),
        total("squares", op("mul", centred, centred), "c", "p"),
        Let("var", op("div", Var("squares", "float32"), count)),
        Let("inv", op("rsqrt", op("add", var, f32(eps)))),
        Let("z", y),
        Store(
            "y",
            (ax("b"), channel, ax("p")),
            op("mul", Var("z", "float32"), op("sigmoid", Var("z", "float32"))),
        ),
    )
    return program(
        nest("group_norm", {"b": b, "g": g, "c": c, "p": hw}, 2, *body, anchor="normalization"),
        buffers=[
            tensor("x", b, g * c, hw),
            tensor("w", g * c, at=1),
            tensor("bias", g * c, at=2),
            out("y", b, g * c, hw),
        ],
    )


def gelu(x: Expr) -> Expr:
    half = op("mul", x, f32(0.5))
    return op("mul", half, op("add", op("erf", op("mul", x, f32(0.7071067811865476))), f32(1.0)))


def linear_gelu(m: int, k: int, n: int) -> Program:
    z = op("add", load("z", ax("m"), ax("n")), load("b", ax("n")))
    epilogue = nest(
        "gelu", {"m": m, "n": n}, 2, Let("h", z), Store("y", (ax("m"), ax("n")), gelu(Var("h", "float32")))
    )
    call = LibraryCall(
        "linear",
        "aten::mm",
        (Operand("x", (m, k), (k, 1)), Operand("w", (k, n), (1, k))),
        "z",
        epilogue=epilogue,
        covers=("linear",),
    )
    return program(
        call,
        buffers=[
            tensor("x", m, k),
            tensor("w", n, k, at=1),
            tensor("b", n, at=2),
            out("z", m, n, role="temp"),
            out("y", m, n),
        ],
    )


def map_id(ids: int, table: int) -> Program:
    """Position of an id in a sorted table, looked up in a second one; a default where it is not there."""
    position, found = Var("position", "int64"), Var("slot", "int64")
    body = (
        Search("position", "keys", (), load("ids", ax("i"), dtype="int64")),
        Let("slot", op("min", position, i64(table - 1))),
        Let("hit", op("eq", load("keys", found, dtype="int64"), load("ids", ax("i"), dtype="int64"))),
        Store(
            "y", (ax("i"),), op("where", Var("hit", "bool"), load("values", found, dtype="int64"), i64(-1))
        ),
    )
    return program(
        nest("map_id", {"i": ids}, 1, *body, anchor="gather"),
        buffers=[
            tensor("ids", ids, dtype="int64"),
            tensor("keys", table, dtype="int64", at=1),
            tensor("values", table, dtype="int64", at=2),
            out("y", ids, dtype="int64"),
        ],
    )


def bucketize_merge(n: int, c: int, borders: int) -> Program:
    """Bucket of every value, a weight per bucket, times the value."""
    x = load("x", ax("n"), ax("c"))
    body = (
        Search("bucket", "borders", (), x),
        Store("y", (ax("n"), ax("c")), op("mul", load("weights", Var("bucket", "int64")), x)),
    )
    return program(
        nest("bucketize", {"n": n, "c": c}, 2, *body, anchor="gather"),
        buffers=[
            tensor("x", n, c),
            tensor("borders", borders, at=1),
            tensor("weights", borders + 1, at=2),
            out("y", n, c),
        ],
    )
