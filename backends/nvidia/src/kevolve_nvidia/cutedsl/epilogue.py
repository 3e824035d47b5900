"""What follows a product as Python that CuTe DSL traces: one value of the result at a time, in float32."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Buffer, Const, Expr, Index, Let, Load, LoopNest, Op, Store, Var, axes_of, itemsize
from kevolve_core.languages.triton.render.contraction import Contraction
from kevolve_core.synth.index import Indexer, integer, linear

__all__ = ["Epilogue", "print_epilogue"]

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=",
          "gt": ">", "ge": ">="}  # fmt: skip
_COMPARE = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
#: operator -> function of ``cutlass.cute.math``
_MATH = frozenset(["exp", "exp2", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin", "cos", "tan",
                   "tanh", "erf", "floor", "ceil"])  # fmt: skip
_TYPES = {"float32": "Float32", "float16": "Float16", "bfloat16": "BFloat16", "bool": "Boolean"}
_INT32 = 1 << 31


@define
class Epilogue:
    """A printed epilogue: the body of a function of ``value``, the coordinates and ``more``, the buffers that
    ``more`` holds, and the buffer that is written.

    ``once`` are values that do not change along most coordinates, which the function is given as ``own``;
    ``steps`` is how far apart neighbours of the result lie, by axis.
    """

    lines: list[str] = field(factory=list)
    reads: list[str] = field(factory=list)
    output: str = ""
    once: list[str] = field(factory=list)
    steps: Mapping[str, int] = field(factory=dict)


def print_epilogue(
    c: Contraction,
    nest: LoopNest,
    buffers: Mapping[str, Buffer],
    names: Mapping[str, str] | None = None,
    once: str = "",
) -> Epilogue:
    """The epilogue ``nest`` (over the axes of ``c``, see `fused_nest` and `plain_nest`). ``names`` are the
    variables of axes (rows, columns and slabs if not given), in which case the result may have another layout
    than the product's own; ``once`` is one of them: what is read along it alone is read ahead.

    Raises:
        UnsupportedError: it stores something else than one result where the product's own would lie, or uses
            an operator or a type that is not printed.
    """
    stores = [s for s in nest.body if isinstance(s, Store)]
    lets = {s.name: s for s in nest.body if isinstance(s, Let)}
    if len(stores) != 1 or len(lets) + 1 != len(nest.body) or stores[0].mask is not None:
        raise UnsupportedError("a product's epilogue in CuTe DSL has one result", where=nest.name)
    store = stores[0]
    target = buffers[store.buffer]
    ix = Indexer()
    for a in (*c.batch, *c.rows, *c.cols):
        ix.extents[a.name] = a.extent
    # An axis of one point, as the batch of a single product is, adds nothing to a position.
    single: dict[str, Expr] = {name: integer(0) for name, extent in ix.extents.items() if extent == 1}
    places = [linear(ix.substitute(e, single)) for e in (ix.dot(store.index, target.stride), c.flat)]
    offset, terms = places[0]
    steps = {a.axis: n for a, n in terms.items() if isinstance(a, Index)}
    kept = places[0] == places[1] if names is None else not offset and len(steps) == len(terms)
    if not kept or target.dtype not in _TYPES or target.dtype == "bool":
        raise UnsupportedError("a product's epilogue in CuTe DSL keeps the result's layout", where=nest.name)
    if names is None:
        names = {
            a.name: variable
            for variable, axes in (("row", c.rows), ("column", c.cols), ("slab", c.batch))
            for a in axes
        }
    printer = _Printer(c, buffers, lets, Epilogue(output=store.buffer, steps=steps), names, once)
    printer.out.lines.append(f"return {printer.value(store.value)}")
    return printer.out


@define
class _Printer:
    c: Contraction
    buffers: Mapping[str, Buffer]
    lets: Mapping[str, Let]
    out: Epilogue
    names: Mapping[str, str]
    once: str
    _known: dict[Expr, str] = field(factory=dict)

    def value(self, e: Expr) -> str:
        if isinstance(e, Const):
            return self._constant(e)
        if isinstance(e, Var):
            return self.value(self.lets[e.name].value)
        if isinstance(e, Load) and e.buffer == self.c.output:
            return "value" if self.c.added is None else f"(value + {self.value(self.c.added)})"
        if e not in self._known:
            text = self._load(e) if isinstance(e, Load) else self._op(e)
            self._known[e] = name = f"v{len(self._known)}"
            self.out.lines.append(f"{name} = {text}")
        return self._known[e]

    def _constant(self, e: Const) -> str:
        if e.dtype not in _TYPES:
            raise UnsupportedError(f"no constants of {e.dtype} in an epilogue in CuTe DSL")
        if e.dtype == "bool":
            return f"cutlass.Boolean({bool(e.value)})"
        number = float(e.value)
        finite = number == number and abs(number) != float("inf")
        return f"cutlass.Float32({number!r})" if finite else f'cutlass.Float32(float("{number}"))'

    def _op(self, e: Expr) -> str:
        if not isinstance(e, Op) or e.dtype not in _TYPES:
            raise UnsupportedError(f"no {type(e).__name__} of {e.dtype} in an epilogue in CuTe DSL")
        args = [self.value(a) for a in e.args]
        a, b = args[0], args[-1]
        if any(x.dtype not in _TYPES for x in e.args) or (e.args[0].dtype == "bool" and e.name != "where"):
            raise UnsupportedError(f"no {e.name} of {e.args[0].dtype} in an epilogue in CuTe DSL")
        if e.name == "cast":
            if e.dtype == "bool":
                return f"{a} != 0.0"
            return a if e.dtype == "float32" else f"{a}.to(cutlass.{_TYPES[e.dtype]}).to(cutlass.Float32)"
        if e.name in _COMPARE or e.name in _INFIX:
            return f"{a} {_INFIX[e.name]} {b}"
        if e.name in _MATH:
            return f"cute.math.{e.name}({a})"
        if e.name == "neg":
            return f"-{a}"
        if e.name == "reciprocal":
            return f"1.0 / {a}"
        if e.name == "sigmoid":
            return f"1.0 / (1.0 + cute.math.exp(-{a}))"
        if e.name == "fma":
            return f"{a} * {args[1]} + {b}"
        if e.name == "where":
            return f"cutlass.Float32(cutlass.select_({a}, {args[1]}, {b}))"
        if e.name == "relu":
            return f"cutlass.Float32(cutlass.select_({a} < 0.0, cutlass.Float32(0.0), {a}))"
        if e.name == "abs":
            return f"cutlass.Float32(cutlass.select_({a} < 0.0, -{a}, {a}))"
        if e.name in ("min", "max"):
            sign = "<" if e.name == "min" else ">"
            kept = f"cutlass.Float32(cutlass.select_({a} {sign} {b}, {a}, {b}))"
            return f"cutlass.Float32(cutlass.select_({a} != {a}, {a}, {kept}))"
        raise UnsupportedError(f"no {e.name} in an epilogue in CuTe DSL")

    def _load(self, e: Load) -> str:
        buffer = self.buffers[e.buffer]
        span = 1 + sum((n - 1) * s for n, s in zip(buffer.shape, buffer.stride, strict=True))
        if e.mask is not None or buffer.dtype not in _TYPES or span * itemsize(buffer.dtype) >= _INT32:
            raise UnsupportedError("an epilogue in CuTe DSL reads whole tensors of floats", where=e.buffer)
        if e.buffer not in self.out.reads:
            self.out.reads.append(e.buffer)
        ix = Indexer()
        at = self._integer(ix.dot(e.index, buffer.stride))
        text = f"more[{self.out.reads.index(e.buffer) + 1}][{at}]"
        text = text if buffer.dtype == "bool" else f"{text}.to(cutlass.Float32)"
        axes = {self.names[a] for x in e.index for a in axes_of(x)} - {"0"}
        if self.once and axes <= {self.once}:
            self.out.once.append(text)
            return f"own[{len(self.out.once) - 1}]"
        return text

    def _integer(self, e: Expr) -> str:
        """An index over rows, columns and slabs."""
        if isinstance(e, Const):
            return str(int(e.value))
        if isinstance(e, Index):
            return self.names[e.axis]
        words = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "remainder": "%"}
        if isinstance(e, Op) and e.name in words:
            left, right = (self._integer(a) for a in e.args)
            return f"({left} {words[e.name]} {right})"
        raise UnsupportedError("an epilogue in CuTe DSL reads at rows and columns of the result")
