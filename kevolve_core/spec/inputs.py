"""Declared inputs of a case: symbolic sizes resolved, defaults filled in, constraints checked."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kevolve_core import syntax
from kevolve_core.errors import SpecError, suggest
from kevolve_core.kernelspec import Distribution, InputSpec

__all__ = ["INTEGER_RANGE", "evaluate_size", "parse_inputs", "with_sizes"]

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
#: dtype -> smallest value and first value above the largest one.
INTEGER_RANGE = {
    "int64": (-(2**63), 2**63),
    "int32": (-(2**31), 2**31),
    "int16": (-(2**15), 2**15),
    "int8": (-128, 128),
    "uint8": (0, 256),
    "bool": (0, 2),
}
_INTEGER_KINDS = {"integers", "offsets", "permutation"}
_FLOAT_KINDS = {"normal", "uniform"}
_ALIASES = {
    "normal": {"mean": "low", "std": "high"},
    "bernoulli": {"p": "high"},
    "choice": {"p": "high"},
}
_PARAMETERS = {
    "normal": {"low", "high"},
    "uniform": {"low", "high"},
    "integers": {"low", "high"},
    "sorted": {"low", "high"},
    "unique_sorted": {"low", "high"},
    "offsets": {"high"},
    "permutation": set(),
    "bernoulli": {"high"},
    "constant": {"low"},
    "choice": {"low", "high", "source"},
}


def evaluate_size(text: int | str, sizes: Mapping[str, int], where: str) -> int:
    """The value of ``B``, ``T + 1`` or ``H // 2 * 3`` under ``sizes``."""
    if not isinstance(text, str):
        return text

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            if node.id in sizes:
                return sizes[node.id]
            raise SpecError(
                f"the size '{node.id}' has no value",
                got=text,
                where=where,
                mend=suggest(node.id, sizes) or f"give it in the case: sizes: {{{node.id}: …}}",
            )
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            try:
                return _OPERATORS[type(node.op)](value(node.left), value(node.right))
            except ZeroDivisionError as error:
                raise SpecError("a size divides by zero", got=text, where=where) from error
        raise SpecError(
            "not a size", got=text, where=where, mend="use names of sizes, whole numbers, +, -, * and //"
        )

    try:
        return value(syntax.parse(text.removeprefix("$").strip(), mode="eval").body)
    except SyntaxError as error:
        raise SpecError(
            "not a size", got=text, where=where, mend="use names of sizes, whole numbers, +, -, * and //"
        ) from error


def with_sizes(value: Any, sizes: Mapping[str, int], where: str) -> Any:
    """``value`` with every string ``$size`` in it replaced."""
    if isinstance(value, str) and value.startswith("$"):
        return evaluate_size(value, sizes, where)
    if isinstance(value, Mapping):
        return {k: with_sizes(v, sizes, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [with_sizes(v, sizes, where) for v in value]
    return value


def parse_inputs(
    shared: Any, own: Any, sizes: Mapping[str, int], where_shared: str, where_own: str
) -> tuple[InputSpec, ...]:
    """The inputs of one case: the ``shared`` ones in order, each restated by the case's ``own`` of the same
    name, then those that only the case has."""
    declared = _by_name(shared, where_shared)
    places = {name: f"{where_shared}.{name}" for name in declared}
    for name, body in _by_name(own, where_own).items():
        # A case that restates a scalar as a tensor, or the reverse, replaces it.
        replaced = {"value", "shape"} & set(body)
        kept = {
            k: v for k, v in declared.get(name, {}).items() if not replaced or k not in {"value", "shape"}
        }
        declared[name] = {**kept, **body}
        places[name] = f"{where_own}.{name}"
    inputs = tuple(_input(name, body, sizes, places[name]) for name, body in declared.items())
    _check_sources(inputs, places)
    return inputs


def _by_name(given: Any, where: str) -> dict[str, dict[str, Any]]:
    """Inputs as name -> body, from a list with names or a mapping, shapes written short spelt out."""
    if isinstance(given, Mapping):
        pairs = [(name, body) for name, body in given.items()]
    else:
        pairs = [(body["name"], body) for body in given or ()]
    out: dict[str, dict[str, Any]] = {}
    for name, body in pairs:
        if name in out:
            raise SpecError(f"two inputs are named '{name}'", where=where, mend="give each its own name")
        full = {"shape": body} if isinstance(body, list) else dict(body)
        if full.pop("name", name) != name:
            raise SpecError("an input has two names", got=f"{name}, {body['name']}", where=f"{where}.{name}")
        out[name] = full
    return out


def _input(name: str, body: Mapping[str, Any], sizes: Mapping[str, int], where: str) -> InputSpec:
    if ("shape" in body) == ("value" in body):
        raise SpecError(
            "an input is a tensor with a shape or a scalar with a value",
            got="both" if "shape" in body else "neither",
            where=where,
            mend="give 'shape' or 'value'",
        )
    if "value" in body:
        return _scalar(name, body, sizes, where)
    shape = tuple(evaluate_size(n, sizes, f"{where}.shape") for n in body["shape"])
    if any(n < 0 for n in shape):
        raise SpecError("a size is negative", got=list(shape), where=f"{where}.shape")
    dtype = body.get("dtype", "float32")
    layouts = tuple(body.get("layouts", ("contiguous",)))
    if "transposed" in layouts and len(shape) < 2:
        raise SpecError(
            "only a tensor of two or more dimensions can be transposed",
            got=list(shape),
            where=f"{where}.layouts",
        )
    if "strided" in layouts and not shape:
        raise SpecError("a tensor without dimensions has no strides", where=f"{where}.layouts")
    distribution = _distribution(body.get("distribution"), dtype, shape, sizes, f"{where}.distribution")
    return InputSpec(name, shape, dtype, distribution, layouts, None, body.get("special", True))


def _scalar(name: str, body: Mapping[str, Any], sizes: Mapping[str, int], where: str) -> InputSpec:
    if extra := [k for k in body if k not in {"value", "dtype"}]:
        raise SpecError(f"a scalar has no '{extra[0]}'", where=where, mend="remove it, or give a 'shape'")
    value = with_sizes(body["value"], sizes, f"{where}.value")
    default = {bool: "bool", int: "int64", float: "float64"}.get(type(value), "float32")
    return InputSpec(name, None, body.get("dtype", default), value=value)


def _distribution(
    given: Any, dtype: str, shape: tuple[int, ...], sizes: Mapping[str, int], where: str
) -> Distribution:
    floating = dtype not in INTEGER_RANGE
    if given is None:
        if not floating and dtype != "bool":
            raise SpecError(
                f"an input of {dtype} needs a distribution",
                where=where,
                mend="for indices below N: distribution: {kind: integers, low: 0, high: N}",
            )
        given = "normal" if floating else "bernoulli"
    body = {"kind": given} if isinstance(given, str) else dict(given)
    kind = body.pop("kind")
    if kind not in _PARAMETERS:
        raise SpecError(
            "unknown distribution",
            got=kind,
            where=where,
            mend=suggest(kind, _PARAMETERS) or ", ".join(_PARAMETERS),
        )
    aliases = _ALIASES.get(kind, {})
    values: dict[str, Any] = {}
    for key, value in body.items():
        target = aliases.get(key, key)
        if target not in _PARAMETERS[kind]:
            known = sorted(_PARAMETERS[kind] | set(aliases))
            raise SpecError(
                f"the distribution '{kind}' has no '{key}'",
                where=where,
                mend=f"it takes {', '.join(known)}" if known else "it takes nothing",
            )
        if target in values:
            raise SpecError(f"'{key}' is given twice, once by its other name", where=where)
        values[target] = (
            evaluate_size(value, sizes, f"{where}.{key}")
            if isinstance(value, str) and key != "source"
            else value
        )
    distribution = Distribution(kind, **values)
    _check_distribution(distribution, dtype, shape, where)
    return distribution


def _check_distribution(d: Distribution, dtype: str, shape: tuple[int, ...], where: str) -> None:
    floating = dtype not in INTEGER_RANGE
    if d.kind in _FLOAT_KINDS and not floating:
        raise SpecError(
            f"the distribution '{d.kind}' draws fractions", got=dtype, where=where, mend="use kind: integers"
        )
    if d.kind in _INTEGER_KINDS - {"integers"} and (floating or dtype == "bool"):
        raise SpecError(f"the distribution '{d.kind}' draws integers", got=dtype, where=where)
    if d.kind in {"sorted", "unique_sorted", "offsets", "permutation"} and (not shape or shape[-1] < 1):
        raise SpecError(f"the distribution '{d.kind}' needs a last dimension", got=list(shape), where=where)
    if d.kind in {"integers", "offsets"} or (d.kind in {"sorted", "unique_sorted"} and not floating):
        _check_integer_range(d, dtype, shape, where)
    elif d.kind in {"uniform", "sorted", "unique_sorted"}:
        low, high = d.low or 0.0, 1.0 if d.high is None else d.high
        if low >= high:
            raise SpecError("the range is empty", got=f"[{low}, {high})", where=where, mend="give low < high")
    if d.kind in {"bernoulli", "choice"} and d.high is not None and not 0 <= d.high <= 1:
        raise SpecError("a probability is between 0 and 1", got=d.high, where=where)
    if d.kind == "normal" and d.high is not None and d.high < 0:
        raise SpecError("a standard deviation is not negative", got=d.high, where=where)
    if d.kind == "choice" and not d.source:
        raise SpecError(
            "the distribution 'choice' needs the input it draws from", where=where, mend="add source: …"
        )
    if d.kind == "constant" and not floating:
        bottom, top = INTEGER_RANGE[dtype]
        if not isinstance(d.low or 0, int) or not bottom <= (d.low or 0) < top:
            raise SpecError(f"the value does not fit {dtype}", got=d.low, where=where)


def _check_integer_range(d: Distribution, dtype: str, shape: tuple[int, ...], where: str) -> None:
    if d.high is None:
        raise SpecError(
            f"the distribution '{d.kind}' needs its upper end", where=where, mend="add high: N (not included)"
        )
    low, high = d.low or 0, d.high
    if not isinstance(low, int) or not isinstance(high, int):
        raise SpecError(
            "the ends of a range of integers are whole numbers", got=f"[{low}, {high})", where=where
        )
    if low >= high and not (d.kind == "offsets" and high == 0):
        raise SpecError("the range is empty", got=f"[{low}, {high})", where=where, mend="give low < high")
    bottom, top = INTEGER_RANGE.get(dtype, (-(2**53), 2**53))
    # The last offset is ``high`` itself. torch draws below 2**63 - 1 at most.
    if low < bottom or high > min(top - (d.kind == "offsets"), 2**63 - 1):
        raise SpecError(f"the range does not fit {dtype}", got=f"[{low}, {high})", where=where)
    if d.kind == "unique_sorted" and shape[-1] > high - low:
        raise SpecError(
            f"{shape[-1]} different integers do not fit into [{low}, {high})",
            where=where,
            mend="widen the range",
        )


def _check_sources(inputs: Sequence[InputSpec], places: Mapping[str, str]) -> None:
    declared = {s.name: s for s in inputs}
    for s in inputs:
        where = f"{places[s.name]}.distribution.source"
        seen = {s.name}
        current = s
        while (source := current.distribution.source) is not None:
            if source not in declared:
                mend = suggest(source, declared) or f"inputs: {', '.join(declared)}"
                raise SpecError("no input has this name", got=source, where=where, mend=mend)
            current = declared[source]
            if current.name in seen:
                raise SpecError("inputs draw from one another in a circle", got=source, where=where)
            seen.add(current.name)
            if current.shape is None or math.prod(current.shape) == 0:
                raise SpecError("values are drawn from a tensor with elements", got=source, where=where)
        if s.distribution.kind == "choice" and (s.dtype in INTEGER_RANGE) != (
            declared[s.distribution.source or ""].dtype in INTEGER_RANGE
        ):
            raise SpecError(
                "values are drawn from an input of another kind of dtype",
                got=f"{s.dtype} from {declared[s.distribution.source or ''].dtype}",
                where=where,
            )
