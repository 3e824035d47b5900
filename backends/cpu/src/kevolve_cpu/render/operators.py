"""The C++ text of one IR operator, for a scalar or for a vector of lanes."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from kevolve_core.errors import UnsupportedError
from kevolve_cpu.render.kinds import BITS, FLOATS, SCALAR, literal
from kevolve_cpu.render.preamble import Preamble
from kevolve_cpu.render.vecmath import VECTOR_FUNCTIONS

__all__ = ["Lanes", "Value"]

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "shift_left": "<<", "shift_right": ">>",
    "logical_and": "&", "logical_or": "|", "logical_xor": "^",
}  # fmt: skip
#: (from, to) of conversions that have a helper
_HALVES = {("f16", "f32"): "widen_half", ("f32", "f16"): "narrow_half"}
_COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_LOGICAL = frozenset({"logical_and", "logical_or", "logical_xor"})

#: operator -> C builtin (float variant gets an `f`)
_BUILTIN = {
    "sqrt": "sqrt", "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2",
    "log10": "log10", "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin",
    "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh",
    "acosh": "acosh", "atanh": "atanh", "erf": "erf", "erfc": "erfc", "lgamma": "lgamma", "floor": "floor",
    "ceil": "ceil", "round": "rint", "trunc": "trunc", "abs": "fabs",
    "pow": "pow", "atan2": "atan2", "copysign": "copysign", "hypot": "hypot", "fmod": "fmod",
}  # fmt: skip


@frozen
class Value:
    """A printed expression: its text, kind, whether it holds lanes, and for a mask the bits of a lane."""

    code: str
    kind: str
    vec: bool = False
    bits: int = 0


class Lanes:
    """Prints operators for vectors of ``width`` lanes (and for scalars), collecting helpers in
    ``preamble``."""

    def __init__(self, preamble: Preamble, width: int) -> None:
        self.preamble = preamble
        self.width = width

    def ctype(self, v: Value) -> str:
        if not v.vec:
            return SCALAR[v.kind]
        return self.preamble.vector(f"i{v.bits}" if v.kind == "b1" else v.kind, self.width)

    def vector(self, kind: str) -> str:
        return self.preamble.vector(kind, self.width)

    def call(self, helper: str, text: str) -> str:
        self.preamble.need(helper)
        return text

    def mask(self, v: Value, bits: int) -> Value:
        """A condition as lanes of ``bits``."""
        if not v.vec:
            splat = self.splat_text(self.vector(f"i{bits}"), f"{SCALAR[f'i{bits}']}(-{v.code})")
            return Value(splat, "b1", True, bits)
        if v.bits == bits:
            return v
        return Value(f"__builtin_convertvector({v.code}, {self.vector(f'i{bits}')})", "b1", True, bits)

    def splat_text(self, vector: str, scalar: str) -> str:
        self.preamble.need("splat")
        return f"splat<{vector}>({scalar})"

    def splat(self, v: Value, bits: int = 32) -> Value:
        """The same value in all lanes."""
        if v.vec:
            return v
        if v.kind == "b1":
            return self.mask(v, bits)
        return Value(self.splat_text(self.vector(v.kind), v.code), v.kind, True)

    def convert(self, v: Value, kind: str) -> Value:
        if v.kind == kind:
            return v
        if not v.vec:
            if kind == "b1":
                return Value(f"({v.code} != 0)", "b1")
            return Value(f"({SCALAR[kind]})({v.code})", kind)
        if kind == "b1":
            return Value(f"({v.code} != 0)", "b1", True, BITS[v.kind])
        if v.kind == "b1":
            wide = self.mask(v, BITS[kind])
            if kind == f"i{BITS[kind]}":
                return Value(f"(-{wide.code})", kind, True)
            return Value(f"__builtin_convertvector(-{wide.code}, {self.vector(kind)})", kind, True)
        if (v.kind, kind) in _HALVES:
            helper = _HALVES[v.kind, kind]
            return Value(self.call(helper, f"{helper}<{self.vector(kind)}>({v.code})"), kind, True)
        return Value(f"__builtin_convertvector({v.code}, {self.vector(kind)})", kind, True)

    def round_to(self, v: Value, dtype: str) -> Value:
        """A float32 value rounded to what ``dtype`` (float16, bfloat16) can hold."""
        if dtype == "float16":
            if not v.vec:
                return Value(f"(float)(_Float16)({v.code})", "f32")
            half = self.convert(Value(v.code, "f32", True), "f16")
            return self.convert(half, "f32")
        if not v.vec:
            return self.widen(self.narrow(v))
        bits = self.call("round_bits", f"round_bits<{self.vector('u32')}>({v.code})")
        return Value(f"({self.vector('f32')}){bits}", "f32", True)

    def widen(self, v: Value) -> Value:
        """bfloat16 bits as float32."""
        if not v.vec:
            return Value(self.call("widen_one", f"widen({v.code})"), "f32")
        types = f"{self.vector('f32')}, {self.vector('u32')}"
        return Value(self.call("widen", f"widen<{types}>({v.code})"), "f32", True)

    def narrow(self, v: Value) -> Value:
        """float32 as bfloat16 bits."""
        if not v.vec:
            return Value(self.call("narrow_one", f"narrow({v.code})"), "u16")
        types = f"{self.vector('u16')}, {self.vector('u32')}"
        return Value(self.call("narrow", f"narrow<{types}>({v.code})"), "u16", True)

    def select(self, c: Value, a: Value, b: Value) -> Value:
        """``c ? a : b`` by lane."""
        kind = a.kind
        vec = a.vec or b.vec or c.vec
        if not vec:
            return Value(f"({c.code} ? {a.code} : {b.code})", kind)
        if not c.vec:
            bits = max(a.bits, b.bits, 8) if kind == "b1" else 0
            if kind == "b1":
                a, b = self.mask(a, bits), self.mask(b, bits)
            else:
                a, b = self.splat(a), self.splat(b)
            return Value(f"({c.code} ? {a.code} : {b.code})", kind, True, bits)
        if kind == "b1":
            bits = c.bits
            a, b = self.mask(a, bits), self.mask(b, bits)
            return Value(f"(({c.code} & {a.code}) | (~{c.code} & {b.code}))", "b1", True, bits)
        m = self.mask(c, BITS[kind])
        return Value(f"({m.code} ? {self.splat(a).code} : {self.splat(b).code})", kind, True)

    def operator(self, name: str, args: tuple[Value, ...], kind: str) -> Value:
        """The value of IR operator ``name``; arguments have one kind (but for ``where``)."""
        if name == "where":
            return self.select(self.convert(args[0], "b1"), args[1], args[2])
        vec = any(a.vec for a in args)
        if name in _LOGICAL or (kind == "b1" and name in ("bitwise_and", "bitwise_or", "bitwise_xor")):
            return self._logical(name, args, vec)
        if name in ("logical_not", "bitwise_not"):
            a = args[0] if name == "bitwise_not" else self.convert(args[0], "b1")
            sign = "!" if a.kind == "b1" and not vec else "~"
            return Value(f"({sign}{a.code})", a.kind, vec, a.bits)
        if name in _COMPARE:
            return self._compare(name, args, vec)
        if name in ("isnan", "isinf"):
            return self._is(name, args[0])
        if name in _INFIX:
            text = f"({args[0].code} {_INFIX[name]} {args[1].code})"
            narrow = not vec and kind in ("i16", "i8", "u8")
            return Value(f"({SCALAR[kind]}){text}" if narrow else text, kind, vec)
        if name == "fma":
            return Value(f"({args[0].code} * {args[1].code} + {args[2].code})", kind, vec)
        if vec and kind == "b1":
            raise UnsupportedError(
                f"operator {name} on booleans", mend="cast its argument to an integer type"
            )
        printed = self._special(name, args, kind, vec)
        return printed if printed is not None else self._function(name, args, kind, vec)

    def _logical(self, name: str, args: tuple[Value, ...], vec: bool) -> Value:
        op = _INFIX[name]
        a, b = (self.convert(x, "b1") for x in args)
        if not vec:
            return Value(f"(bool)({a.code} {op} {b.code})", "b1")
        bits = max(x.bits for x in (a, b) if x.vec)
        return Value(f"({self.mask(a, bits).code} {op} {self.mask(b, bits).code})", "b1", True, bits)

    def _compare(self, name: str, args: tuple[Value, ...], vec: bool) -> Value:
        a, b = args
        if a.kind == "b1":
            if not vec:
                return Value(f"({a.code} {_INFIX[name]} {b.code})", "b1")
            bits = max(x.bits for x in (a, b) if x.vec)
            a, b = self.mask(a, bits), self.mask(b, bits)
            # true is -1 in a lane, so the order of masks is the reverse of that of booleans
            a, b = (a, b) if name in ("eq", "ne") else (b, a)
            return Value(f"({a.code} {_INFIX[name]} {b.code})", "b1", True, bits)
        return Value(f"({a.code} {_INFIX[name]} {b.code})", "b1", vec, BITS[a.kind] if vec else 0)

    def _is(self, name: str, a: Value) -> Value:
        if a.kind not in FLOATS:
            zero = Value("false", "b1")
            return self.mask(zero, BITS[a.kind]) if a.vec else zero
        bits = BITS[a.kind] if a.vec else 0
        if name == "isnan":
            return Value(f"({a.code} != {a.code})", "b1", a.vec, bits)
        inf = literal(float("inf"), a.kind)
        return Value(f"(({a.code} == {inf}) | ({a.code} == -{inf}))", "b1", a.vec, bits)

    def _special(self, name: str, args: tuple[Value, ...], kind: str, vec: bool) -> Value | None:
        """Operators with a direct text; None leaves it to a function call."""
        a = args[0].code
        one, zero = literal(1, kind), literal(0, kind)
        floating = kind in FLOATS
        if name == "div" and floating:
            return Value(f"({a} / {args[1].code})", kind, vec)
        if name == "reciprocal":
            return Value(f"({one} / {a})", kind, vec)
        if name == "rsqrt" and kind == "f32" and not vec:  # one rounding, not two: it scales a whole row
            return Value(f"(float)(1.0 / __builtin_sqrt((double)({a})))", kind)
        if name == "rsqrt":
            return Value(f"({one} / {self.operator('sqrt', args, kind).code})", kind, vec)
        if name == "neg":
            return Value(f"({SCALAR[kind]})(-{a})" if not vec else f"(-{a})", kind, vec)
        if name == "relu":  # NaN stays
            return self.select(
                self._compare("lt", (args[0], Value(zero, kind)), vec), Value(zero, kind), args[0]
            )
        if name in ("min", "max"):
            helper = "minimum" if name == "min" else "maximum"
            x, y = (self.splat(v) if vec else v for v in args)
            types = "" if vec else f"<{SCALAR[kind]}>"
            return Value(self.call(helper, f"{helper}{types}({x.code}, {y.code})"), kind, vec)
        if name == "sign":
            below = self.select(
                self._compare("lt", (args[0], Value(zero, kind)), vec),
                Value(literal(-1, kind) if kind != "u8" else zero, kind),
                args[0] if floating else Value(zero, kind),
            )
            return self.select(
                self._compare("gt", (args[0], Value(zero, kind)), vec), Value(one, kind), below
            )
        if name == "abs" and not floating:
            return self.select(
                self._compare("lt", (args[0], Value(zero, kind)), vec),
                self._special("neg", args, kind, vec) or args[0],
                args[0],
            )
        if name == "abs" and vec:
            sign = {"f32": "0x7fffffff", "f64": "0x7fffffffffffffffL"}[kind]
            return Value(f"({self.vector(kind)})(({self.vector(f'i{BITS[kind]}')}){a} & {sign})", kind, True)
        if name == "sigmoid" and not (vec and name in VECTOR_FUNCTIONS and kind == "f32"):
            e = self.operator("exp", (Value(f"(-{a})", kind, vec),), kind)
            return Value(f"({one} / ({one} + {e.code}))", kind, vec)
        if name in ("floor", "ceil", "round", "trunc") and not floating:
            return args[0]
        return None

    def _function(self, name: str, args: tuple[Value, ...], kind: str, vec: bool) -> Value:
        if vec and kind == "f32" and name in VECTOR_FUNCTIONS:
            helper = VECTOR_FUNCTIONS[name]
            inside = ", ".join(self.splat(v).code for v in args)
            return Value(self.call(helper, f"{helper}({inside})"), kind, True)
        scalar = SCALAR[kind]
        function = self._scalar_function(name, kind)
        if not vec:
            return Value(function(*(f"({scalar})({v.code})" for v in args)), kind)
        self.preamble.need("each")
        names = ("a", "b")[: len(args)]
        signature = ", ".join(f"{scalar} {n}" for n in names)
        inside = ", ".join(self.splat(v).code for v in args)
        return Value(f"each({inside}, []({signature}) {{ return {function(*names)}; }})", kind, True)

    def _scalar_function(self, name: str, kind: str) -> Callable[..., str]:
        floating = kind in FLOATS
        if floating and name in _BUILTIN:
            builtin = f"__builtin_{_BUILTIN[name]}{'f' if kind == 'f32' else ''}"
            return lambda *xs: f"{builtin}({', '.join(xs)})"
        helper = {
            ("remainder", True): "float_remainder", ("floordiv", True): "float_floordiv",
            ("remainder", False): "remainder", ("floordiv", False): "floordiv", ("fmod", False): "modulo",
            ("div", False): "divide", ("pow", False): "integer_power",
        }.get((name, floating))  # fmt: skip
        if helper is None:
            raise UnsupportedError(
                f"operator {name} has no C++ form for {SCALAR[kind]}",
                mend="cast its arguments to a floating type",
            )
        self.preamble.need(helper)
        return lambda *xs: f"{helper}({', '.join(xs)})"
