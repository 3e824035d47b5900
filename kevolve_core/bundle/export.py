"""A candidate as ONE Python file that needs torch (and its language's own runtime) and nothing of Kevolve.

The entry module keeps its text. Native files go into the dict ``_SOURCES`` and the import of `load_native` or
`replayed` from `kevolve_core.native` is replaced by the backend's stand-alone text of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping

from attrs import frozen

from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.model import Candidate
from kevolve_core.syntax import parse

__all__ = ["export"]

_HELPER = "kevolve_core.native"
_HELPERS = ("load_native", "replayed")
_SECTION = re.compile(r"^# --- (\w+): .*\n", re.MULTILINE)  # of a loader's text that has several


@frozen
class _Cut:
    """Bytes ``[start, end)`` of a module's text and what stands there instead."""

    start: int
    end: int
    text: str


def export(candidate: Candidate, loader_source: str) -> str:
    """The text of one Python file that defines what the candidate's entry defines.

    Args:
        candidate: its Python entry and any number of native files. An entry that opens none passes through.
        loader_source: Python text that defines ``load_native`` for files found in ``_SOURCES`` (a backend's
            `standalone_loader`). Of its parts that begin with ``# --- NAME: …``, those whose helper the entry
            imports are taken.

    Raises:
        UnsupportedError: an entry that is no Python, more than one Python file, another import of Kevolve,
            or a name that entry and loader both define.
        KevolveError: the entry is not valid Python or does not define its symbol.
    """
    if not candidate.entry.endswith(".py"):
        raise UnsupportedError(
            "an exported kernel is one Python file, but this candidate's entry is none",
            got=candidate.entry,
            where=f"candidate {candidate.id}, language '{candidate.language}'",
            mend="ship its files as they are; the backend's runner loads them",
        )
    extra = sorted(f for f in candidate.files if f.endswith(".py") and f != candidate.entry)
    if extra:
        raise UnsupportedError(
            "an exported kernel is one Python file, but this candidate has several",
            got=", ".join([candidate.entry, *extra]),
            where=f"candidate {candidate.id}",
            mend="move the helpers into the entry",
        )
    source = candidate.files[candidate.entry]
    tree = _parse(source, candidate)
    _require_symbol(tree, candidate)
    cuts, used = _replace_imports(tree, source, candidate)
    preamble, body_start = _preamble(tree, source)
    parts = [f"# Exported by Kevolve from candidate {candidate.id}; it needs no part of Kevolve.\n", preamble]
    if used:
        loader = _loader_text(_sections(loader_source, used), candidate, used)
        _refuse_collisions(loader, tree, candidate)
        natives = {name: text for name, text in candidate.files.items() if name != candidate.entry}
        parts += [_sources_text(natives) if "load_native" in used else "", loader, "\n\n"]
    parts.append(_apply(source, cuts, body_start).lstrip("\n"))
    text = "".join(parts).rstrip("\n") + "\n"
    compile(text, f"<export of {candidate.id}>", "exec")
    return text


def _parse(source: str, candidate: Candidate) -> ast.Module:
    try:
        return parse(source)
    except SyntaxError as error:
        raise KevolveError(
            "the candidate's entry is not valid Python",
            got=error.msg,
            where=f"{candidate.entry}:{error.lineno}",
        ) from error


def _require_symbol(tree: ast.Module, candidate: Candidate) -> None:
    symbol = candidate.symbol or "ModelNew"
    defined = set(_defined(tree.body))
    if symbol not in defined:
        raise KevolveError(
            f"the candidate's entry does not define '{symbol}'",
            got=", ".join(sorted(defined)) or "no definitions",
            where=candidate.entry,
            mend="name the entry's class or function in the candidate's 'symbol'",
        )


def _defined(body: Iterable[ast.stmt]) -> Iterable[str]:
    """Names that top-level statements bind, imports included."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from ((a.asname or a.name).split(".")[0] for a in names)
            case ast.If(body=inner, orelse=other):
                yield from _defined([*inner, *other])
            case ast.Try(body=inner, orelse=other, finalbody=last):
                yield from _defined([*inner, *other, *last])
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                for target in ast.walk(node):
                    if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                        yield target.id


def _replace_imports(tree: ast.Module, source: str, candidate: Candidate) -> tuple[list[_Cut], set[str]]:
    """Cuts for every import of a helper, and which there were. Refuses other imports of Kevolve."""
    starts, data = _line_starts(source), source.encode()
    cuts: list[_Cut] = []
    used: set[str] = set()
    for node in ast.walk(tree):
        aliases: list[str] | None = None
        if isinstance(node, ast.ImportFrom) and node.module == _HELPER and not node.level:
            if all(a.name in _HELPERS for a in node.names):
                aliases = [f"{a.asname} = {a.name}" for a in node.names if a.asname not in (None, a.name)]
                used |= {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            if not any(a.name.split(".")[0] == "kevolve_core" for a in node.names):
                continue
        elif not (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kevolve_core"):
            continue
        if aliases is None:
            raise UnsupportedError(
                "an exported kernel may use 'load_native' and 'replayed' of Kevolve and nothing else",
                got=ast.unparse(node),
                where=f"{candidate.entry}:{node.lineno}",
                mend=f"write 'from {_HELPER} import load_native', or replayed",
            )
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        text = "; ".join(aliases)
        if not text and not (node in tree.body and data[end : end + 1] == b"\n"):
            text = "pass"  # a block, or the rest of its line, needs a statement here
        cuts.append(_Cut(start, end, text))
    return sorted(cuts, key=lambda c: c.start), used


def _sections(loader_source: str, used: Collection[str]) -> str:
    """The parts of a loader's text that define what is ``used``; all of a text without parts."""
    head, *parts = _SECTION.split(loader_source)
    named = zip(parts[::2], parts[1::2], strict=True)
    return "".join([head, *(text for name, text in named if name in used)])


def _line_starts(source: str) -> list[int]:
    """Byte offset of each line's start; ast counts columns in UTF-8 bytes."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _preamble(tree: ast.Module, source: str) -> tuple[str, int]:
    """The docstring and ``__future__`` imports, which must stay first, and the byte where the rest starts."""
    count = 0
    if ast.get_docstring(tree, clean=False) is not None:
        count = 1
    while (
        count < len(tree.body)
        and isinstance(node := tree.body[count], ast.ImportFrom)
        and node.module == "__future__"
    ):
        count += 1
    if not count:
        return "\n", 0
    last = tree.body[count - 1]
    assert last.end_lineno is not None  # set by ast.parse
    end = _line_starts(source)[last.end_lineno]
    return source.encode()[:end].decode().rstrip("\n") + "\n\n", end


def _apply(source: str, cuts: list[_Cut], start: int) -> str:
    data, parts, at = source.encode(), [], start
    for cut in cuts:
        parts += [data[at : cut.start].decode(), cut.text]
        at = cut.end
        if not cut.text and data[at : at + 1] == b"\n":
            at += 1  # a removed statement takes its line along
    return "".join([*parts, data[at:].decode()])


def _loader_text(loader_source: str, candidate: Candidate, used: Collection[str]) -> str:
    """The loader without docstring and ``__future__`` imports, which cannot stand in the middle of a file."""
    tree = parse(loader_source)
    if missing := set(used) - set(_defined(tree.body)):
        raise UnsupportedError(
            f"the backend has no stand-alone loader for language '{candidate.language}'",
            got=f"no {', '.join(sorted(missing))}",
            where=f"candidate {candidate.id}",
        )
    _, start = _preamble(tree, loader_source)
    return loader_source.encode()[start:].decode().strip("\n") + "\n"


def _refuse_collisions(loader: str, entry: ast.Module, candidate: Candidate) -> None:
    """A name that both bind is harmless only where both import the same thing under it."""
    body = parse(loader).body
    same = _imports(body) & _imports(entry.body)
    clash = set(_defined(body)) & set(_defined(entry.body)) - {name for name, _ in same} - set(_HELPERS)
    if clash:
        raise UnsupportedError(
            "the candidate's entry and the stand-alone loader define the same names",
            got=", ".join(sorted(clash)),
            where=candidate.entry,
            mend="rename them in the entry",
        )


def _imports(body: list[ast.stmt]) -> set[tuple[str, str]]:
    """(bound name, what it is) of top-level imports."""
    found = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {((a.asname or a.name).split(".")[0], a.name) for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(a.asname or a.name, f"{node.module}:{a.name}") for a in node.names}
    return found


def _sources_text(natives: Mapping[str, str]) -> str:
    entries = "".join(f"    {name!r}: {_literal(text)},\n" for name, text in sorted(natives.items()))
    return f"_SOURCES = {{\n{entries}}}\n\n"


def _literal(text: str) -> str:
    """``text`` as a Python literal: readable raw text where that is exact, else its repr."""
    for quote in ('"""', "'''"):
        literal = f"r{quote}{text}{quote}"
        if "\r" in text or "\0" in text or quote in text:
            continue
        try:
            if ast.literal_eval(literal) == text:
                return literal
        except SyntaxError:  # ends in a quote or a backslash
            continue
    return repr(text)
