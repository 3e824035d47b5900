"""The source of a live function or class as a module of its own.

What the source names and does not define is written before it: imports for modules and for what other modules
export, literals for plain constants (captured ones too), the source of helpers from the same module.
"""

from __future__ import annotations

import ast
import inspect
import symtable
import sys
import textwrap
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from kevolve_core import syntax
from kevolve_core.errors import SpecError

__all__ = ["extract", "importable_name"]

_PLAIN = (bool, int, float, str, bytes, type(None))


class _NotSelfContainedError(Exception):
    """A name whose value cannot be written down."""


def importable_name(value: Any) -> tuple[str, str] | None:
    """(module, name) under which ``value`` is found again by import, or None."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not name:
        name = getattr(value, "__name__", "")
    if not isinstance(module, str) or not name.isidentifier() or module == "__main__":
        return None
    return (module, name) if getattr(sys.modules.get(module), name, None) is value else None


def extract(value: Any) -> tuple[str, str]:
    """(source, symbol) of a module that defines the function or class ``value``.

    Raises:
        SpecError: it is a lambda inside of an expression, has no source, or uses a value that can be neither
            written down nor imported.
    """
    name = getattr(value, "__name__", type(value).__name__)
    library = _is_library(value)
    try:
        if library:
            raise _NotSelfContainedError("it belongs to an installed package")
        parts: dict[str, str] = {}
        _add(value, parts)
        symbol = name if name.isidentifier() else _assigned_name(value)
        return "\n\n".join(_ordered(parts)) + "\n", symbol
    except _NotSelfContainedError as problem:
        if found := importable_name(value):
            module, symbol = found
            return f"from {module} import {symbol}\n", symbol
        raise SpecError(
            f"'{name}' cannot be written into a specification",
            got=str(problem),
            where=_place(value),
            mend="define it with 'def' or 'class' at the top level of a module, its data passed as inputs",
        ) from problem


def _is_library(value: Any) -> bool:
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return (file is None and module is not sys.modules.get("__main__")) or "site-packages" in str(file)


def _place(value: Any) -> str | None:
    code = getattr(value, "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else getattr(value, "__module__", None)


def _ordered(parts: Mapping[str, str]) -> list[str]:
    """Imports first, then constants and definitions in the order they were met, innermost first."""
    imports = [t for t in parts.values() if t.startswith(("import ", "from "))]
    rest = [t for t in parts.values() if not t.startswith(("import ", "from "))]
    return (["\n".join(dict.fromkeys(imports))] if imports else []) + rest


def _source(value: Any) -> str:
    try:
        source = textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError) as error:
        raise _NotSelfContainedError(f"its source is not available: {error}") from error
    if getattr(value, "__name__", "") == "<lambda>":
        _assigned_name(value, source)
    return source.strip()


def _assigned_name(value: Any, source: str | None = None) -> str:
    """The name in ``name = lambda …``, where the statement is just that."""
    text = source if source is not None else textwrap.dedent(inspect.getsource(value))
    try:
        body = syntax.parse(text).body
    except SyntaxError:
        body = []
    match body:
        case [ast.Assign(targets=[ast.Name(id=name)], value=ast.Lambda())]:
            return name
    raise _NotSelfContainedError("a lambda inside of a larger expression")


def _add(value: Any, parts: dict[str, str]) -> None:
    """Add the source of ``value`` to ``parts``, after everything it names."""
    source = _source(value)
    tree = syntax.parse(source)
    if isinstance(tree.body[0], ast.FunctionDef | ast.ClassDef):
        key = tree.body[0].name
    else:
        key = _assigned_name(value, source)
    if key in parts:
        return
    parts[key] = ""  # recursion ends here
    known = _environment(value)
    for name in _free_names(source):
        if name in known and name not in parts:
            _bind(name, known[name], parts, getattr(value, "__module__", ""))
    del parts[key]
    parts[key] = source


def _free_names(source: str) -> list[str]:
    """Names that ``source`` reads and does not bind itself, in order of appearance: not its parameters and
    local variables, whatever else is called the same."""
    scopes = [symtable.symtable(source, "<reference>", "exec")]
    bound = {s.get_name() for s in scopes[0].get_symbols() if s.is_assigned() or s.is_imported()}
    bound |= {child.get_name() for child in scopes[0].get_children()}
    found: set[str] = set()
    while scopes:
        scope = scopes.pop()
        found |= {
            s.get_name()
            for s in scope.get_symbols()
            if s.is_referenced() and (s.is_global() or scope.get_type() == "module")
        }
        scopes += scope.get_children()
    order = [n.id for n in ast.walk(syntax.parse(source)) if isinstance(n, ast.Name)]
    return [name for name in dict.fromkeys(order) if name in found - bound]


def _environment(value: Any) -> dict[str, Any]:
    """What names in the source of ``value`` mean: its module's globals and captured variables."""
    known = dict(vars(sys.modules[value.__module__])) if value.__module__ in sys.modules else {}
    functions = (
        [f for f in vars(value).values() if inspect.isfunction(f)] if inspect.isclass(value) else [value]
    )
    for function in functions:
        function = inspect.unwrap(function)
        known.update(function.__globals__ if not inspect.isclass(value) else {})
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                known[name] = cell.cell_contents
    return known


def _bind(name: str, value: Any, parts: dict[str, str], home: str) -> None:
    """Write what makes ``name`` mean ``value``."""
    if isinstance(value, ModuleType):
        root, _, leaf = value.__name__.rpartition(".")
        plain = f"import {value.__name__}" if name == value.__name__ else ""
        parts[name] = plain or (
            f"from {root} import {leaf} as {name}" if root else f"import {value.__name__} as {name}"
        )
    elif isinstance(value, (torch.dtype, torch.device)):
        parts["torch"] = "import torch"
        parts[name] = f"{name} = {value!r}" if isinstance(value, torch.dtype) else f"{name} = torch.{value!r}"
    elif _is_plain(value):
        parts[name] = f"{name} = {value!r}"
    elif inspect.isfunction(value) or inspect.isclass(value):
        if value.__module__ == home and not _is_library(value):
            _add(value, parts)
        elif found := importable_name(value):
            parts[name] = f"from {found[0]} import {found[1]} as {name}"
        else:
            _add(value, parts)
    elif found := importable_name(value):
        parts[name] = f"from {found[0]} import {found[1]} as {name}"
    else:
        raise _NotSelfContainedError(f"it uses '{name}', a {type(value).__name__}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    # repr of infinities and NaN is not Python.
    return type(value) in _PLAIN and not (isinstance(value, float) and value - value != 0)
