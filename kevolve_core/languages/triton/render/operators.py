"""Prints pointwise operators of the loop IR as Triton expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kevolve_core.errors import UnsupportedError
from kevolve_core.ir import Const, Expr, Op
from kevolve_core.languages.triton.render.scope import Text
from kevolve_core.languages.triton.render.words import TRITON_TYPES, constant, triton_type

__all__ = ["operator_text"]

_FLOATS = frozenset(["float16", "bfloat16", "float32", "float64"])
_INFIX = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
          "ge": ">=", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "shift_left": "<<",
          "shift_right": ">>"}  # fmt: skip
_LOGICAL = {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}
_CALLS = {"abs": "tl.abs", "exp2": "tl.exp2", "log": "tl.log", "log2": "tl.log2", "sin": "tl.sin",
          "cos": "tl.cos", "erf": "tl.erf", "floor": "tl.floor", "ceil": "tl.ceil", "fma": "tl.fma",
          "rsqrt": "tl.rsqrt"}  # fmt: skip
#: helpers that give float64 whatever they are given
_WIDE = {"atan": "_atan", "asin": "_asin", "acos": "_acos", "sinh": "_sinh", "cosh": "_cosh",
         "asinh": "_asinh", "acosh": "_acosh", "atanh": "_atanh", "lgamma": "_lgamma",
         "atan2": "_atan2"}  # fmt: skip
_COMPARISONS = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])

Helper = Callable[[str], str]


def operator_text(e: Op, args: Sequence[Text], helper: Helper) -> tuple[str, bool]:
    """(source, whether it is an atom) of ``e`` on printed ``args``; ``helper`` notes a helper's use.

    Raises UnsupportedError where Triton has no form of it.
    """
    kind = "float" if e.dtype in _FLOATS else "bool" if e.dtype == "bool" else "int"
    name = e.name
    if name == "cast":
        return _cast(e, args[0])
    if name == "where":
        return _where(e, args)
    if name in _LOGICAL:
        left, right = (_truth(a) for a in args)
        return f"{left} {_LOGICAL[name]} {right}", False
    if name == "logical_not" or (name == "bitwise_not" and kind == "bool"):
        return f"{_plain_int(args[0])} == 0", False
    if name == "bitwise_not":
        # Not by `~`: in the interpreter that is an xor with -1, which uint8 lacks.
        return (f"{args[0].operand} ^ 255" if e.dtype == "uint8" else f"~{args[0].operand}"), False
    if name in _COMPARISONS:
        left, right = (_plain_int(a) if a.dtype == "bool" else a.operand for a in args)
        return f"{left} {_INFIX[name]} {right}", False
    if name in _INFIX:
        if kind == "bool" and name == "add":
            return f"{args[0].operand} | {args[1].operand}", False
        if kind == "bool" and name == "mul":
            return f"{args[0].operand} & {args[1].operand}", False
        return f"{args[0].operand} {_INFIX[name]} {args[1].operand}", False
    if name == "neg":
        return f"-{args[0].operand}", False
    if kind == "int":
        return _integer(e, args, helper)
    if name in ("isnan", "isinf"):
        if args[0].dtype not in _FLOATS:
            return f"{args[0].operand} != {args[0].operand}", False
        same = f"{args[0].operand} != {args[0].operand}"
        return (same, False) if name == "isnan" else (f'tl.abs({args[0].source}) == float("inf")', False)
    if kind == "bool" and name in ("min", "max"):
        return f"{args[0].operand} {'&' if name == 'min' else '|'} {args[1].operand}", False
    return _float(e, args, helper)


def _truth(a: Text) -> str:
    return a.operand if a.dtype == "bool" else f"({a.operand} != 0)"


def _plain_int(a: Text) -> str:
    return f"{a.operand}.to(tl.int32)" if a.dtype == "bool" and not a.literal else a.operand


def _cast(e: Op, a: Text) -> tuple[str, bool]:
    source, to = e.args[0].dtype, e.dtype
    if a.literal:
        return f"tl.full([], {a.source}, {triton_type(to)})", True
    if to == "bool":
        return (a.source, a.atom) if source == "bool" else (f"{a.operand} != 0", False)
    if to in ("float16", "bfloat16"):
        by = ".to(tl.float32)" if source == "float64" else ""  # as PyTorch goes; targets lack the direct way
        return f"{a.operand}{by}.to({TRITON_TYPES[to]}).to(tl.float32)", True
    if to in ("uint8", "int8", "int16") and source in _FLOATS:
        return f"{a.operand}.to(tl.int32).to({TRITON_TYPES[to]})", True
    if source in ("float16", "bfloat16") and to == "float32":
        return a.source, a.atom
    return f"{a.operand}.to({TRITON_TYPES[to]})", True


def _where(e: Op, args: Sequence[Text]) -> tuple[str, bool]:
    values = [x.source for x in args[1:]]
    if all(x.literal for x in args[1:]) and e.dtype not in ("float32", "float16", "bfloat16"):
        if e.dtype == "bool":
            first, second = (x.source == "True" for x in args[1:])
            if first == second:
                return values[0], True
            return (_truth(args[0]), True) if first else (f"{_plain_int(args[0])} == 0", False)
        return f"tl.where({args[0].source}, {', '.join(values)}).to({TRITON_TYPES[e.dtype]})", True
    return f"tl.where({args[0].source}, {', '.join(values)})", True


def _integer(e: Op, args: Sequence[Text], helper: Helper) -> tuple[str, bool]:
    name = e.name
    if name in ("min", "max"):
        return f"tl.{name}imum({args[0].source}, {args[1].source})", True
    if name == "abs":
        return f"tl.abs({args[0].source})", True
    if name == "relu":
        return f"tl.maximum({args[0].source}, 0)", True
    if name == "sign":
        a = args[0].operand
        return f"({a} > 0).to({TRITON_TYPES[e.dtype]}) - ({a} < 0).to({TRITON_TYPES[e.dtype]})", False
    if name == "fmod":
        return f"{args[0].operand} % {args[1].operand}", False
    if name in ("floordiv", "remainder", "div"):
        if e.dtype == "uint8":
            return f"{args[0].operand} {'%' if name == 'remainder' else '//'} {args[1].operand}", False
        function = "_remainder" if name == "remainder" else "_floordiv"
        return f"{helper(function)}({args[0].source}, {args[1].source})", True
    if name == "pow":
        return f"{helper('_integer_pow')}({args[0].source}, {args[1].source})", True
    if name in ("floor", "ceil", "round", "trunc"):
        return args[0].source, args[0].atom
    raise UnsupportedError(f"Triton renderer has no {name} of {e.dtype}")


def _exact_inverse(e: Expr, dtype: str) -> str:
    """The literal of 1 / ``e`` where that is a power of two, so that a product by it is the quotient; else
    ""."""
    value = e.value if isinstance(e, Const) else 0
    if not isinstance(value, float) or not 2.0**-100 < abs(value) < 2.0**100:
        return ""
    return constant(1.0 / value, dtype) if abs(math.frexp(value)[0]) == 0.5 else ""


def _float(e: Op, args: Sequence[Text], helper: Helper) -> tuple[str, bool]:
    name, wide = e.name, e.dtype == "float64"
    a = args[0].source
    b = args[1].source if len(args) > 1 else ""
    back = "" if wide else ".to(tl.float32)"
    if name in ("floor", "ceil", "erf", "log", "abs") and args[0].literal:
        a = f"tl.full([], {a}, {triton_type(e.dtype)})"
    if name == "div" and (inverse := _exact_inverse(e.args[1], e.dtype)):
        return f"{args[0].operand} * {inverse}", False
    if name == "div":
        return (f"{args[0].operand} / {args[1].operand}", False) if wide else (f"tl.div_rn({a}, {b})", True)
    if name == "reciprocal":
        return (f"1.0 / {args[0].operand}", False) if wide else (f"tl.div_rn(1.0, {a})", True)
    if name == "sqrt":
        return (f"tl.sqrt({a})" if wide else f"tl.sqrt_rn({a})"), True
    if name in _CALLS:
        return f"{_CALLS[name]}({', '.join(x.source for x in args)})", True
    if name in _WIDE:
        return f"{helper(_WIDE[name])}({', '.join(x.source for x in args)}){back}", True
    if name == "exp":
        return (f"tl.exp({a})" if wide else f"{helper('_exp')}({a})"), True
    if name == "expm1":
        return f"{helper('_expm1_wide' if wide else '_expm1')}({a})", True
    if name == "log1p":
        return f"{helper('_log1p_wide' if wide else '_log1p')}({a})", True
    if name == "log10":
        return f"tl.log({a}) * 0.4342944819032518", False
    if name == "tanh":
        return f"{helper('_tanh_wide' if wide else '_tanh')}({a})", True
    if name == "tan":
        return f"{helper('_tan')}({a})", True
    if name == "sigmoid":
        if wide:
            return f"1.0 / (1.0 + tl.exp(-{args[0].operand}))", False
        return f"tl.div_rn(1.0, 1.0 + tl.exp(-{args[0].operand}))", True
    if name == "erfc":
        return f"(1.0 - tl.erf({args[0].operand}.to(tl.float64))){back}", True
    if name == "relu":
        return f"tl.maximum({a}, 0.0, propagate_nan=tl.PropagateNan.ALL)", True
    if name in ("min", "max"):
        return f"{helper('_maximum' if name == 'max' else '_minimum')}({a}, {b})", True
    if name == "round":
        return f"{helper('_round64' if wide else '_round')}({a})", True
    if name == "trunc":
        return f"{helper('_trunc')}({a})", True
    if name == "sign":
        t, x = triton_type(e.dtype), args[0].operand
        return f"({x} > 0).to({t}) - ({x} < 0).to({t})", False
    if name == "copysign":
        negative = f"({b} < 0) | (({b} == 0) & (1.0 / {args[1].operand} < 0))"
        return f"tl.where({negative}, -tl.abs({a}), tl.abs({a}))", True
    if name == "hypot":
        return f"{helper('_hypot')}({_tensor(args[0], e)}, {_tensor(args[1], e)}){back}", True
    if name == "pow":
        return _power(e, args, helper, back)
    if name in ("fmod", "remainder", "floordiv"):
        function = {"fmod": "_fmod", "remainder": "_remainder_float", "floordiv": "_floordiv_float"}[name]
        return f"{helper(function)}({_tensor(args[0], e)}, {_tensor(args[1], e)}){back}", True
    raise UnsupportedError(f"Triton renderer has no {name} of {e.dtype}")


def _tensor(a: Text, e: Op) -> str:
    """A literal as a value that has methods."""
    return f"tl.full([], {a.source}, {triton_type(e.dtype)})" if a.literal else a.source


def _power(e: Op, args: Sequence[Text], helper: Helper, back: str) -> tuple[str, bool]:
    exponent = e.args[1]
    x = args[0].operand
    if isinstance(exponent, Const) and not args[0].literal:
        value = float(exponent.value)
        if value in (2.0, 3.0, 4.0):
            return (f"{x} * {x}" if value == 2 else f"{x} * {x} * {x}" if value == 3 else
                    f"({x} * {x}) * ({x} * {x})"), False  # fmt: skip
        if value == 0.5:
            return (f"tl.sqrt({x})" if not back else f"tl.sqrt_rn({x})"), True
    return f"{helper('_pow')}({_tensor(args[0], e)}, {_tensor(args[1], e)}){back}", True
