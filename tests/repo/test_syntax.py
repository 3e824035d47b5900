"""Parsing from several threads, as proposing and evaluating do."""

from __future__ import annotations

import ast
from unittest.mock import Mock

import pytest

from kevolve_core import syntax


def test_a_system_error_of_the_parser_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [SystemError("AST constructor recursion depth mismatch (before=39, after=83)"), None, None]
    )
    plain = ast.parse

    def parse(text: str, mode: str) -> ast.AST:
        if error := next(answers):
            raise error
        return plain(text, mode=mode)

    monkeypatch.setattr(ast, "parse", parse)
    assert ast.dump(plain("x = 1")) == ast.dump(syntax.parse("x = 1"))


def test_a_parser_that_always_fails_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Mock(side_effect=SystemError("broken"))
    monkeypatch.setattr(ast, "parse", parse)
    with pytest.raises(SystemError, match="broken"):
        syntax.parse("x = 1")
    assert 1 < parse.call_count < 100


def test_text_that_is_no_python_is_refused_at_once() -> None:
    with pytest.raises(SyntaxError):
        syntax.parse("x = = 1")
