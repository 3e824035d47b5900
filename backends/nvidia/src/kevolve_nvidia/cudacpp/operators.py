"""Pointwise operators of the loop IR as CUDA C++ expressions on scalars."""

from __future__ import annotations

from collections.abc import Sequence

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Op

__all__ = ["CUDA_TYPES", "FLOATS", "HELPERS", "VALUE_TYPES", "constant_text", "operator_text"]

FLOATS = frozenset(["float64", "float32", "float16", "bfloat16"])
#: IR dtype -> type in memory.
CUDA_TYPES = {
    "float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16",
    "int64": "long long", "int32": "int", "int16": "short", "int8": "signed char", "uint8": "unsigned char",
    "bool": "bool",
}  # fmt: skip
#: IR dtype -> type of a value in a register: halves are floats that hold what a half can.
VALUE_TYPES = {**CUDA_TYPES, "float16": "float", "bfloat16": "float"}

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "shift_left": "<<", "shift_right": ">>",
    "logical_and": "&&", "logical_or": "||",
}  # fmt: skip
_COMPARE = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"})
#: operator -> function of CUDA's math library; of float it has an `f` at the end.
_FUNCTIONS = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10",
    "log1p": "log1p", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan":
    "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh":
    "atanh", "erf": "erf", "erfc": "erfc", "lgamma": "lgamma", "floor": "floor", "ceil": "ceil",
    "round": "rint",
    "trunc": "trunc", "abs": "fabs", "pow": "pow", "atan2": "atan2", "copysign": "copysign", "hypot": "hypot",
    "fmod": "fmod", "sqrt": "sqrt", "rsqrt": "rsqrt", "fma": "fma",
}  # fmt: skip
#: Helper -> its text. Python's and ATen's rules for signs and NaN.
HELPERS: dict[str, str] = {
    "maximum": """template <class T> __device__ inline T maximum(T a, T b) {
  return a != a || a > b ? a : b;
}""",
    "minimum": """template <class T> __device__ inline T minimum(T a, T b) {
  return a != a || a < b ? a : b;
}""",
    "remainder_of": """// The remainder with the divisor's sign.
template <class T> __device__ inline T remainder_of(T a, T b) {
  const T r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
__device__ inline float remainder_of(float a, float b) {
  const float r = fmodf(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
__device__ inline double remainder_of(double a, double b) {
  const double r = fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}""",
    "floor_divide": """// The quotient, rounded down.
template <class T> __device__ inline T floor_divide(T a, T b) {
  const T q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}
__device__ inline double floor_divide(double a, double b) {
  if (b == 0) return a / b;
  const double r = fmod(a, b);
  double q = (a - r) / b;
  if (r != 0 && (b < 0) != (r < 0)) q -= 1;
  if (q == 0) return copysign(0.0, a / b);
  const double f = floor(q);
  return q - f > 0.5 ? f + 1 : f;
}
__device__ inline float floor_divide(float a, float b) {
  return static_cast<float>(floor_divide(static_cast<double>(a), static_cast<double>(b)));
}""",
    "integer_power": """template <class T> __device__ inline T integer_power(T a, T b) {
  T r = 1;
  for (T n = b; n > 0; n >>= 1, a *= a)
    if (n & 1) r *= a;
  return b < 0 ? (a == 1 ? 1 : 0) : r;
}""",
}


def constant_text(value: float | int | bool, dtype: str) -> str:
    """A literal of ``dtype``'s value type."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype not in FLOATS:
        text = f"{int(value)}LL" if dtype == "int64" else str(int(value))
        return f"({text})" if int(value) < 0 else text
    number, wide = float(value), dtype == "float64"
    if number != number:
        return "__longlong_as_double(0x7ff8000000000000LL)" if wide else "__int_as_float(0x7fc00000)"
    if number in (float("inf"), float("-inf")):
        bits = "__longlong_as_double(0x7ff0000000000000LL)" if wide else "__int_as_float(0x7f800000)"
        return bits if number > 0 else f"(-{bits})"
    text = f"{number!r}{'' if wide else 'f'}"
    return f"({text})" if number < 0 or str(number).startswith("-") else text


def operator_text(e: Op, args: Sequence[str], need: set[str], *, once: bool = False) -> str:
    """``e`` on printed ``args``; helpers that it calls go into ``need``. ``once``: evaluated once a row, so
    that accuracy is free.

    Raises:
        UnsupportedError: there is no form of it.
    """
    name, dtype = e.name, e.dtype
    kind = VALUE_TYPES[dtype]
    a, b = args[0], args[1] if len(args) > 1 else ""
    if name == "cast":
        return _cast(e, a)
    if name == "where":
        return f"({a} ? {args[1]} : {args[2]})"
    if name == "logical_not" or (name == "bitwise_not" and dtype == "bool"):
        return f"(!{a})"
    if name == "logical_xor":
        return f"(static_cast<bool>({a}) != static_cast<bool>({b}))"
    if name == "bitwise_not":
        return f"static_cast<{kind}>(~{a})"
    if name in ("isnan", "isinf"):
        if e.args[0].dtype not in FLOATS:
            return "false"
        return f"({a} != {a})" if name == "isnan" else f"(isinf({a}) != 0)"
    if name in _INFIX:
        text = f"({a} {_INFIX[name]} {b})"
        return text if name in _COMPARE or dtype in FLOATS else f"static_cast<{kind}>{text}"
    if name == "neg":
        return f"static_cast<{kind}>(-{a})" if dtype not in FLOATS else f"(-{a})"
    if name in ("min", "max"):
        return _helper(need, "minimum" if name == "min" else "maximum", f"<{kind}>({a}, {b})")
    if name == "relu":
        return f"({a} < 0 ? static_cast<{kind}>(0) : {a})"
    if name == "sign":
        return f"static_cast<{kind}>(({a} > 0) - ({a} < 0))"
    if name == "remainder":
        return _helper(need, "remainder_of", f"({a}, {b})")
    if name == "floordiv":
        return _helper(need, "floor_divide", f"({a}, {b})")
    return _float(e, args, once) if dtype in FLOATS else _integer(e, args, need)


def _helper(need: set[str], name: str, call: str) -> str:
    need.add(name)
    return f"{name}{call}"


def _cast(e: Op, a: str) -> str:
    source, to = e.args[0].dtype, e.dtype
    if to == "bool":
        return a if source == "bool" else f"({a} != 0)"
    if to == "float16":
        return f"__half2float(__float2half_rn(static_cast<float>({a})))"
    if to == "bfloat16":
        return f"__bfloat162float(__float2bfloat16_rn(static_cast<float>({a})))"
    if VALUE_TYPES[source] == VALUE_TYPES[to]:
        return a
    if to in ("uint8", "int8", "int16") and source in FLOATS:
        return f"static_cast<{CUDA_TYPES[to]}>(static_cast<long long>({a}))"
    return f"static_cast<{VALUE_TYPES[to]}>({a})"


def _integer(e: Op, args: Sequence[str], need: set[str]) -> str:
    a, kind = args[0], VALUE_TYPES[e.dtype]
    if e.name in ("floor", "ceil", "round", "trunc"):
        return a
    if e.name == "abs":
        return f"static_cast<{kind}>({a} < 0 ? -{a} : {a})"
    if e.name == "fmod":
        return f"static_cast<{kind}>({a} % {args[1]})"
    if e.name == "div":
        return f"static_cast<{kind}>({a} / {args[1]})"
    if e.name == "pow":
        return _helper(need, "integer_power", f"<{kind}>({a}, {args[1]})")
    raise UnsupportedError(f"CUDA renderer has no {e.name} of {e.dtype}")


def _float(e: Op, args: Sequence[str], once: bool) -> str:
    name, f = e.name, "" if e.dtype == "float64" else "f"
    a = args[0]
    one = "1.0" + f
    if name == "div":
        return f"({a} / {args[1]})"
    if name == "reciprocal":
        return f"({one} / {a})"
    if name == "rsqrt" and f and once:
        return f"static_cast<float>(1.0 / sqrt(static_cast<double>({a})))"
    if name == "sigmoid":
        return f"({one} / ({one} + exp{f}(-{a})))"
    if name in _FUNCTIONS:
        return f"{_FUNCTIONS[name]}{f}({', '.join(args)})"
    raise UnsupportedError(f"CUDA renderer has no {name} of {e.dtype}")
