"""Tunables that a candidate declares: numbers in its source that a schedule searcher may set.

A candidate's entry file declares them as two literals, which are read without running it::

    KEVOLVE_TUNABLES = {"BLOCK": [64, 128, 256], "WARPS": [4, 8]}
    KEVOLVE_CONSTRAINTS = ["BLOCK * 4 <= 1024 or WARPS == 8"]
    BLOCK = 128
    WARPS = 4

Each tunable is assigned once, as a literal: at the top of the entry file (``BLOCK = 128``), or in a native
file beside it (``#define BLOCK 128`` or ``constexpr int BLOCK = 128;``). A tuned candidate is the same source
with other literals there, so it needs nothing of Kevolve when it runs. A constraint is a Python expression
over tunables, literals, arithmetic, comparisons, ``and``, ``or``, ``not``, ``min``, ``max`` and ``abs``;
points that break one are never tried.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import evolve, field, frozen

from kevolve_core import syntax
from kevolve_core.errors import ConfigError
from kevolve_core.model import Candidate, content_hash, freeze
from kevolve_core.space import Constraint, Parameter, Point, Space

__all__ = ["GENERATOR", "Tunables", "declared", "tuned"]

#: What the genome of a tuned candidate names as its generator.
GENERATOR = "tuner"
_TUNABLES, _CONSTRAINTS = "KEVOLVE_TUNABLES", "KEVOLVE_CONSTRAINTS"
_NATIVE = (".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hip", ".hpp")
_CHOICES, _PARAMETERS = 64, 16  # more is no tuning space but a mistake (estimated)
_MEND = "see the docstring of kevolve_core.tunables for the form"


@frozen
class _Place:
    """A literal in a file: bytes ``start`` to ``end``."""

    path: str
    start: int
    end: int


@frozen
class Tunables:
    """What a candidate declares.

    Args:
        space: the legal points; the default is the source as it is.
        structure: hash of everything but the tunables' values: equal for all points of one kernel.
    """

    space: Space
    structure: str
    places: Mapping[str, _Place] = field(converter=freeze, hash=False)

    def genome(self, point: Point) -> dict[str, Any]:
        """The genome of the candidate at ``point``."""
        return {"generator": GENERATOR, "structure": self.structure, "point": dict(point)}


def declared(candidate: Candidate) -> Tunables | None:
    """What ``candidate`` declares, None where it declares nothing. Reads the source, runs nothing.

    Raises:
        ConfigError: a declaration that cannot be used, and why.
    """
    text = candidate.files.get(candidate.entry, "")
    if _TUNABLES not in text:
        return None
    try:
        tree = syntax.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None  # the compiler will say so
    assigned = dict(_assigned(tree))
    if _TUNABLES not in assigned:
        return None
    choices = _choices(assigned[_TUNABLES], candidate.entry)
    places = {name: _place(candidate, assigned, name) for name in choices}
    parameters = []
    for name, values in choices.items():
        value = _value(candidate, places[name])
        if value not in values:
            raise _refused(
                f"tunable {name} stands at a value that is none of its choices", value, candidate.entry
            )
        parameters.append(Parameter(name, values, values[values.index(value)]))
    constraints = _constraints(assigned.get(_CONSTRAINTS), tuple(choices), candidate.entry)
    space = Space(tuple(parameters), constraints)
    if (broken := space.violated(space.default())) is not None:
        raise _refused("the tunables' values break a constraint of their own", broken.text, candidate.entry)
    blank = _with(candidate, places, dict.fromkeys(places, "?"))
    return Tunables(space, content_hash([blank, candidate.entry, candidate.language])[:16], places)


def tuned(candidate: Candidate, tunables: Tunables, point: Point) -> Candidate:
    """``candidate`` with its tunables, as `declared` found them, at ``point``."""
    words = {name: _word(point[name], tunables.places[name].path) for name in tunables.places}
    return evolve(candidate, files=_with(candidate, tunables.places, words), genome=tunables.genome(point))


def _refused(what: str, got: object, where: str) -> ConfigError:
    return ConfigError(what, got=got, where=where, mend=_MEND)


# --- reading ------------------------------------------------------------------------------------------------


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Names assigned at the top of a module, the last assignment of each last."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _choices(node: ast.expr, where: str) -> dict[str, tuple[Any, ...]]:
    try:
        given = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _refused(f"{_TUNABLES} is no literal", ast.unparse(node)[:80], where) from error
    if not isinstance(given, dict) or not 0 < len(given) <= _PARAMETERS:
        raise _refused(f"{_TUNABLES} has to map 1 to {_PARAMETERS} names to choices", given, where)
    for name, values in given.items():
        usable = isinstance(values, (list, tuple)) and 0 < len(values) <= _CHOICES
        if not isinstance(name, str) or not name.isidentifier() or not usable:
            raise _refused(
                f"a tunable needs a name and 1 to {_CHOICES} choices", f"{name!r}: {values!r}", where
            )
        if not all(isinstance(value, (bool, int, float, str)) for value in values):
            raise _refused(f"the choices of {name} have to be numbers, words or flags", values, where)
        if len(set(values)) < len(values):
            raise _refused(f"{name} has a choice twice", values, where)
    return {name: tuple(values) for name, values in given.items()}


def _place(candidate: Candidate, assigned: Mapping[str, ast.expr], name: str) -> _Place:
    found: list[_Place] = []
    node = assigned.get(name)
    if node is not None:
        literal = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
        if not isinstance(literal, ast.Constant):
            raise _refused(
                f"tunable {name} is not assigned a literal", ast.unparse(node)[:80], candidate.entry
            )
        found.append(_Place(candidate.entry, *_span(candidate.files[candidate.entry], node)))
    pattern = re.compile(
        rf"^[ \t]*#[ \t]*define[ \t]+{name}[ \t]+(?P<macro>[^\s/]+)"
        rf"|\bconstexpr\b[^=;(){{}}]*\b{name}\s*=\s*(?P<constant>[^;,\s]+)\s*;",
        re.M,
    )
    for path, text in sorted(candidate.files.items()):
        for match in pattern.finditer(text) if path.endswith(_NATIVE) else ():
            start, end = match.span("macro" if match["macro"] else "constant")
            found.append(_Place(path, len(text[:start].encode()), len(text[:end].encode())))
    if len(found) != 1:
        where = ", ".join(place.path for place in found) or candidate.entry
        raise _refused(f"tunable {name} has to be assigned in one place", f"{len(found)} places", where)
    return found[0]


def _span(text: str, node: ast.expr) -> tuple[int, int]:
    """Bytes that an expression covers."""
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    assert node.end_lineno is not None  # `ast.parse` sets both
    assert node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _value(candidate: Candidate, place: _Place) -> Any:
    word = candidate.files[place.path].encode()[place.start : place.end].decode()
    if place.path.endswith(_NATIVE) and word in {"true", "false"}:
        return word == "true"
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _word(value: Any, path: str) -> str:
    if path.endswith(_NATIVE):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return repr(value)


def _with(candidate: Candidate, places: Mapping[str, _Place], words: Mapping[str, str]) -> dict[str, str]:
    files = {path: text.encode() for path, text in candidate.files.items()}
    for name, place in sorted(places.items(), key=lambda item: -item[1].start):  # back to front
        text = files[place.path]
        files[place.path] = text[: place.start] + words[name].encode() + text[place.end :]
    return {path: text.decode() for path, text in files.items()}


# --- constraints --------------------------------------------------------------------------------------------

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_CALLS: Mapping[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}


def _constraints(node: ast.expr | None, names: tuple[str, ...], where: str) -> tuple[Constraint, ...]:
    if node is None:
        return ()
    try:
        texts = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise _refused(f"{_CONSTRAINTS} is no literal", ast.unparse(node)[:80], where) from error
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise _refused(f"{_CONSTRAINTS} has to be a list of expressions", texts, where)
    return tuple(_constraint(text, names, where) for text in texts)


def _constraint(text: str, names: tuple[str, ...], where: str) -> Constraint:
    try:
        body = syntax.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: too deep
        raise _refused("a constraint of a tunable is no expression", text[:80], where) from error
    for node in ast.walk(body):
        if isinstance(node, ast.Name) and node.id not in names and node.id not in _CALLS:
            raise _refused("a constraint names something that is no tunable", node.id, f"{where}: {text}")

    def holds(point: Point) -> bool:
        try:
            return bool(_evaluated(body, point))
        except (ArithmeticError, TypeError, RecursionError):  # such a point cannot be meant
            return False

    try:
        _evaluated(body, dict.fromkeys(names, 1))
    except (ArithmeticError, TypeError, RecursionError):
        pass  # at another point it may have a value
    except NotImplementedError as error:
        raise _refused(
            "a constraint of a tunable uses more than it may", error, f"{where}: {text}"
        ) from error
    return Constraint(text, holds)


def _evaluated(node: ast.expr, point: Point) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in point:
            return point[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            terms = [_evaluated(left, point), _evaluated(right, point)]
            if any(isinstance(term, str) for term in terms):
                raise TypeError("arithmetic is of numbers")  # a word times a number is a long word
            return _BINARY[type(op)](*terms)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, point)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluated(operand, point)
        case ast.BoolOp(op=op, values=values):
            each = [_evaluated(value, point) for value in values]
            return all(each) if isinstance(op, ast.And) else any(each)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            terms = [_evaluated(term, point) for term in (left, *others)]
            return all(_COMPARE[type(op)](a, b) for op, a, b in zip(ops, terms, terms[1:], strict=False))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _CALLS:
            return _CALLS[name](*(_evaluated(argument, point) for argument in arguments))
    raise NotImplementedError(ast.unparse(node))
