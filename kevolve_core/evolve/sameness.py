"""Whether two candidates are the same work: by their source with everything that cannot matter left out."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator

from kevolve_core import syntax
from kevolve_core.model import Candidate, content_hash

__all__ = ["source_key"]

_TOKEN = re.compile(
    r'"(?:\\.|[^"\\])*"'  # a string
    r"|'(?:\\.|[^'\\])*'"
    r"|[A-Za-z_]\w*"
    r"|\.?\d(?:[eEpP][+-]|[\w.'])*"  # a number, C++'s digit separators included
    r"|[^\sA-Za-z_0-9]"
)
_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|//(?:\\\n|[^\n])*|/\*.*?\*/', re.S)
_RAW = re.compile(r'R"[^()\\ ]{0,16}\(')
_PLAIN_TYPES = frozenset(
    ["auto", "bool", "char", "double", "float", "half", "int", "long", "short", "signed", "size_t",
     "unsigned", "ptrdiff_t", "__half", "__nv_bfloat16", "float2", "float4", "int2", "int4", "uint2", "uint4"]
)  # fmt: skip
#: Scopes of their own, and statements that bind a name without a node for it.
_NAMING = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Global, ast.Nonlocal,
    ast.ExceptHandler, ast.Match, ast.Import, ast.ImportFrom,
)  # fmt: skip


def source_key(candidate: Candidate) -> str:
    """Equal for two candidates of equal language whose files differ in nothing but comments, whitespace,
    docstrings and the names of local variables; a hash. Text it does not understand counts as it is."""
    files = {path: _normal(path, text) for path, text in candidate.files.items()}
    return content_hash([files, candidate.entry, candidate.language, candidate.symbol])


def _normal(path: str, text: str) -> str:
    if path.endswith(".py"):
        try:
            return _python(text)
        except (SyntaxError, ValueError, RecursionError):
            return _hashed(text)
    if path.endswith((".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hip", ".hpp")) and not _RAW.search(text):
        return _hashed("\0".join(_native(text)))
    return _hashed(text)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


# --- Python -------------------------------------------------------------------------------------------------


def _python(text: str) -> str:
    tree = syntax.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            _drop_docstring(node)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            _rename(node)
    return _hashed(ast.dump(tree))


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    value = first.value if isinstance(first, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        node.body = node.body[1:] or [ast.Pass()]


def _rename(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Number a function's local variables in the order in which they are first assigned.

    Left alone: arguments (callers and JITs name them), what an inner scope or ``global`` may share, and
    everything in a function that looks at its own names.
    """
    inside = [node for statement in function.body for node in ast.walk(statement)]
    if any(isinstance(node, _NAMING) for node in inside):
        return
    names = {node.id for node in inside if isinstance(node, ast.Name)}
    if names & {"locals", "vars", "eval", "exec", "globals", "dir"}:
        return
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    kept = {argument.arg for argument in arguments if argument is not None}
    stored = sorted(
        (node for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)),
        key=lambda node: (node.lineno, node.col_offset),
    )
    order = dict.fromkeys(node.id for node in stored if node.id not in kept)
    number = {name: f"local {n}" for n, name in enumerate(order)}  # a blank: no name of the user's
    for node in inside:
        if isinstance(node, ast.Name) and node.id in number:
            node.id = number[node.id]


# --- C and its kin ------------------------------------------------------------------------------------------


def _native(text: str) -> Iterator[str]:
    """Tokens without comments, with locals numbered in the order of their declaration."""
    text = _COMMENT.sub(lambda match: match[0] if match[0][0] in "\"'" else " ", text)
    fixed: set[str] = set()  # names that a macro may use
    lines: list[str] = []
    for line in re.sub(r"\\\n", " ", text).split("\n"):
        if line.lstrip().startswith("#"):
            fixed.update(re.findall(r"[A-Za-z_]\w*", line))
            # A directive ends with its line: keep the line whole, as one token of the stream.
            lines.append('"' + " ".join(line.split()).replace("\\", "\\\\").replace('"', '\\"') + '"')
        else:
            lines.append(line)
    tokens = _TOKEN.findall("\n".join(lines))
    number = _locals(tokens, fixed)
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else ""
        member = before == "." or (before == ">" and place > 1 and tokens[place - 2] == "-") or before == ":"
        yield token if member else number.get(token, token)


def _locals(tokens: list[str], fixed: set[str]) -> dict[str, str]:
    """Variables of plain types declared inside braces, and nowhere outside."""
    depth, order, outside = 0, dict[str, None](), set[str]()
    for place, token in enumerate(tokens):
        if token in "{}":
            depth += 1 if token == "{" else -1
        elif depth == 0:
            outside.add(token)
        elif place > 1 and (token[0].isalpha() or token[0] == "_") and place + 1 < len(tokens):
            back = place - 1
            while back > 0 and tokens[back] in {"*", "&", "const", "__restrict__", "restrict"}:
                back -= 1
            declared = tokens[back] in _PLAIN_TYPES and tokens[place + 1] in {"=", ";", ",", "[", "{", ":"}
            if declared and token not in _PLAIN_TYPES:
                order.setdefault(token)
    names = [name for name in order if name not in outside and name not in fixed]
    return {name: f"local {n}" for n, name in enumerate(names)}
