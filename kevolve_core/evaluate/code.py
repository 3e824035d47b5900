"""Whether two candidates became the same code: by what is loaded of their binaries and by their host code."""

from __future__ import annotations

import ast
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from kevolve_core import syntax
from kevolve_core.model import Artifact, Candidate, content_hash

__all__ = ["code_key"]

_COMPILED = frozenset([".c", ".cc", ".cpp", ".cu", ".cuh", ".cxx", ".h", ".hip", ".hpp"])
_ALLOC, _NOTE, _NOBITS = 0x2, 7, 8  # SHF_ALLOC, SHT_NOTE, SHT_NOBITS of the ELF specification


def code_key(candidate: Candidate, artifacts: Mapping[str, Artifact]) -> str:
    """Equal for two candidates whose runs execute the same instructions: the same binaries a case, but for
    symbols, debugging information and notes, launched by the same host code. A hash; "" where nothing was
    compiled ahead, so that nothing is known.

    Of Python the statements count; comments, layout and docstrings do not, nor does the body of a function
    whose only decorator is a JIT's, since its binary is compared. (One that no case launched is not compared;
    the candidate that is taken for another takes no part in the final confirmation.)
    """
    binaries = {
        case: {name: _loaded(Path(path)) for name, path in artifact.binaries.items()}
        for case, artifact in artifacts.items()
    }
    if not binaries or not all(binaries.values()):
        return ""
    host = {}
    for path, text in candidate.files.items():
        suffix = PurePosixPath(path).suffix
        if suffix not in _COMPILED:
            host[path] = _python(text) if suffix == ".py" else text
    return content_hash([binaries, host, candidate.entry, candidate.language, candidate.symbol])


def _loaded(file: Path) -> str:
    """A hash of what is loaded of an ELF file (shared objects and cubins are such), of all of any other."""
    data = file.read_bytes()
    digest = hashlib.sha256()
    if data[:5] != b"\x7fELF\x02":
        return hashlib.sha256(data).hexdigest()
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", data, 0x28)
    size, count = struct.unpack_from(order + "HH", data, 0x3A)
    for number in range(count):
        kind, flags = struct.unpack_from(order + "IQ", data, table + number * size + 4)
        offset, length = struct.unpack_from(order + "QQ", data, table + number * size + 24)
        if flags & _ALLOC and kind != _NOTE:
            digest.update(struct.pack("<QQQ", kind, flags, length))
            digest.update(b"" if kind == _NOBITS else data[offset : offset + length])
    return digest.hexdigest()


def _python(text: str) -> str:
    """Host code without what does not run, as text."""
    try:
        tree = syntax.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return text
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1:
            made = node.decorator_list[0]
            named = made.func if isinstance(made, ast.Call) else made
            if (named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")) == "jit":
                node.body = [ast.Pass()]
    return ast.dump(tree)
