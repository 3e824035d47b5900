"""Python source to syntax tree, from any thread.

Before CPython 3.11.8 the parser counts its recursion in one place for all threads: when the garbage collector
runs while a tree is built and another thread parses meanwhile, :func:`ast.parse` raises ``SystemError: AST
constructor recursion depth mismatch`` for text that is fine (python/cpython#106905). Proposing, checking and
evaluating run in threads of one process here, so every parse goes through :func:`parse`.
"""

from __future__ import annotations

import ast
import threading
from typing import Literal, overload

__all__ = ["parse"]

_LOCK = threading.Lock()
#: Other libraries parse without our lock; each further try needs another collection at just the wrong moment.
_TRIES = 8


@overload
def parse(text: str, mode: Literal["exec"] = "exec") -> ast.Module: ...
@overload
def parse(text: str, mode: Literal["eval"]) -> ast.Expression: ...


def parse(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.Module | ast.Expression:
    """:func:`ast.parse` of ``text``; raises what it raises (:class:`SyntaxError`, :class:`ValueError` for a
    null byte, :class:`RecursionError`), but no :class:`SystemError` that another thread caused."""
    for _ in range(_TRIES - 1):
        try:
            with _LOCK:
                return _parse(text, mode)
        except SystemError:
            continue
    with _LOCK:
        return _parse(text, mode)


def _parse(text: str, mode: Literal["exec", "eval"]) -> ast.Module | ast.Expression:
    tree = ast.parse(text, mode=mode)
    assert isinstance(tree, (ast.Module, ast.Expression))
    return tree
