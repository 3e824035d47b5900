"""Duplicates by source: nothing that matters is ever taken for the same, and what cannot matter is."""

from __future__ import annotations

from typing import Any

import pytest
from evolve_fakes import settings

from kevolve_core.evolve.sameness import source_key
from kevolve_core.interfaces import Proposal
from kevolve_core.model import Candidate, Origin


def key(text: str, path: str = "k.py") -> str:
    return source_key(Candidate(files={path: text}, entry="k.py", language="x"))


BASE = "def f(x):\n    a = x + 1\n    b = a * 2\n    return b\n"
NATIVE = "void f(float* x) { int n = 4; float s = 0; for (int i = 0; i < n; ++i) s += x[i]; x[0] = s; }"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n" + BASE,
        '"""A module."""\n\n' + BASE.replace("\n    a", '\n    """A function."""\n    a'),
        BASE.replace("x + 1", "x  +  1").replace("\n    b", "\n\n    b"),
        "def f(x):\n    first = x + 1\n    second = first * 2\n    return second\n",
    ],
)
def test_comments_layout_and_names_of_locals_do_not_matter_in_python(same: str) -> None:
    assert key(same) == key(BASE)


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("+ 1", "+ 2"),
        BASE.replace("return b", "return a"),
        BASE.replace("def f", "def g"),
        BASE.replace("(x)", "(y)").replace("x +", "y +"),  # callers may name an argument
        "def f(x):\n    b = x + 1\n    a = b * 2\n    return b\n",  # swapped, and another value returned
        "def f(x):\n    global a\n    a = x + 1\n    b = a * 2\n    return b\n",
    ],
)
def test_what_matters_in_python_is_told_apart(other: str) -> None:
    assert key(other) != key(BASE)


def test_names_that_an_inner_scope_or_a_handler_shares_are_left_alone() -> None:
    inner = "def f(x):\n    {0} = x\n    def g():\n        return {0}\n    return g()\n"
    assert key(inner.format("a")) != key(inner.format("b"))
    first = "def f(x):\n    e = 1\n    try:\n        x()\n    except OSError as e:\n        return e\n"
    second = "def f(x):\n    y = 1\n    try:\n        x()\n    except OSError as e:\n        return y\n"
    assert key(first) != key(second)


@pytest.mark.parametrize(
    "same",
    [
        "// a comment\n" + NATIVE,
        NATIVE.replace("; ", ";\n  /* and\n another */ "),
        NATIVE.replace("int n", "int count").replace("i < n", "i < count").replace(" s", " sum"),
    ],
)
def test_comments_layout_and_names_of_locals_do_not_matter_in_native_code(same: str) -> None:
    assert key(same, "k.cpp") == key(NATIVE, "k.cpp")


@pytest.mark.parametrize(
    "other",
    [
        NATIVE.replace("n = 4", "n = 8"),
        NATIVE.replace("float s", "double s"),
        NATIVE.replace("void f", "void g"),
        NATIVE.replace("s += x[i]", "s -= x[i]"),
        '#pragma GCC optimize("O2")\n' + NATIVE,
        NATIVE.replace("x[0] = s", "x[n] = s"),
    ],
)
def test_what_matters_in_native_code_is_told_apart(other: str) -> None:
    assert key(other, "k.cpp") != key(NATIVE, "k.cpp")


def test_text_inside_strings_matters() -> None:
    assert key('auto s = "// a";', "k.cpp") != key('auto s = "// b";', "k.cpp")
    assert key('def f():\n    return "a  b"\n') != key('def f():\n    return "a b"\n')


def test_members_and_macros_keep_their_names() -> None:
    text = "void f(P p) {{ int {0} = 1; p.n = {0}; }}"
    assert key(text.format("n"), "k.cpp") != key("void f(P p) { int k = 1; p.k = k; }", "k.cpp")
    macro = "#define GET a\nvoid f(int* x) {{ int {0} = 1; x[0] = GET; }}"
    assert key(macro.format("a"), "k.cpp") != key(macro.format("b"), "k.cpp")


def test_source_that_does_not_parse_counts_as_it_is() -> None:
    assert key("def f(:  # a") != key("def f(:  # b")


class Renaming:
    """Writes the same kernel again and again, with another comment each time; then another kernel."""

    name = "renaming"

    async def propose(self, context: Proposal, n: int) -> list[Candidate]:
        del n
        body = "A = 1\n" if context.sequence < 4 else f"A = {context.sequence}\n"
        text = f"# {context.sequence}, {context.attempt}\n{body}"
        return [Candidate({"k.py": text}, "k.py", "fake", origin=Origin("renaming", context.operator))]


def test_the_same_source_under_another_comment_is_not_paid_for_twice(bench: Any) -> None:
    result = bench.run(generator=Renaming(), settings=settings(budget=_candidates(3)))
    assert [point.reused_from for point in result.trajectory[:4]] == [None, 0, 0, 0]
    assert len({point.candidate_id for point in result.trajectory[:4]}) == 1
    searched = [r for r in bench.executor.requests if r.stages == settings().search_stages]
    assert len(searched) == 3


def _candidates(count: int) -> Any:
    from kevolve_core.evolve import Budget

    return Budget(candidates=count)
