"""Replies as models write them, to files."""

from __future__ import annotations

import pytest

from kevolve_core.errors import MalformedReplyError
from kevolve_core.llm.parse import Expected, files_of

PY = """from kevolve_core.native import load_native

_n = load_native("kernel.cpp", {"go": "pl"})


def f(x):
    return x
"""
CPP = """#include <cstdint>
extern "C" void go(float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = 0;
}
"""
BOTH = {"kernel.py": PY, "kernel.cpp": CPP}
NEW = Expected("kernel.py", "kernel.cpp", "f", {})
EDIT = Expected("kernel.py", "kernel.cpp", "f", BOTH)
LOOP = "    for (int64_t i = 0; i < n; ++i) x[i] = 0;"


def edit(search: str, replace: str, before: str = "`kernel.cpp`\n") -> str:
    return f"{before}```\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n```\n"


@pytest.mark.parametrize(
    "reply",
    [
        f"`kernel.py`\n```python\n{PY}```\n\n`kernel.cpp`\n```cpp\n{CPP}```\n",
        f"### FILE: kernel.py\n\n```python\n{PY}```\n**kernel.cpp**\n```cpp\n{CPP}```\nThat is all.",
        f"```python kernel.py\n{PY}```\n```cpp:kernel.cpp\n{CPP}```\n",
        f"```python\n# kernel.py\n{PY}```\n```cpp\n// kernel.cpp\n{CPP}```\n",
        f"Here:\n```python\n{PY}```\nand\n```c++\n{CPP}```\n",
        f"<think>```python\ndef f(x): pass\n```</think>\n```python\n{PY}```\n```cpp\n{CPP}```\n",
        f"kernel.py:\r\n```python\r\n{PY}```\r\nkernel.cpp:\r\n```cpp\r\n{CPP}```\r\n",
        f"````markdown\nnotes\n````\n~~~python\n{PY}~~~\n~~~cpp\n{CPP}~~~\n",
        f"1. `src/kernel.py`\n```python\n{PY}```\n2. `src/kernel.cpp`\n```cpp\n{CPP}```\n",
    ],
)  # fmt: skip
def test_whole_files_are_read_in_many_forms(reply: str) -> None:
    found = files_of(reply, NEW)
    assert {n: t.split("\n", 1)[1] if t.startswith(("# k", "// k")) else t for n, t in found.items()} == BOTH


def test_the_last_version_of_a_file_counts() -> None:
    first, second = (f"`kernel.cpp`\n```cpp\n{text}```\n" for text in (CPP, CPP + "// v2\n"))
    reply = f"{first}Better:\n{second}`kernel.py`\n```python\n{PY}```\n"
    assert files_of(reply, NEW)["kernel.cpp"] == CPP + "// v2\n"


def test_a_snippet_in_the_reasoning_is_no_file() -> None:
    snippets = "The loop\n```\nfor each x\n```\nbecomes\n", "```bash\ng++ kernel.cpp\n```\n"
    reply = f"{snippets[0]}```python\n{PY}```\n```cpp\n{CPP}```\n{snippets[1]}"
    assert files_of(reply, NEW) == BOTH


def test_files_that_are_not_given_stay() -> None:
    assert files_of(f"`kernel.cpp`\n```cpp\n{CPP}// faster\n```\n", EDIT) == BOTH | {
        "kernel.cpp": CPP + "// faster\n"
    }


@pytest.mark.parametrize(
    "reply",
    [
        edit(LOOP, "    go_on(x, n);"),
        edit(LOOP, "    go_on(x, n);", before=""),
        edit(LOOP + "   ", "    go_on(x, n);", before="kernel.cpp\n"),
        edit(LOOP.strip(), "go_on(x, n);"),
        edit(LOOP, "    go_on(x, n);").replace("```\n", ""),
        edit("\n" + LOOP + "\n", "    go_on(x, n);"),
    ],
)
def test_an_edit_is_applied(reply: str) -> None:
    assert files_of(reply, EDIT)["kernel.cpp"] == CPP.replace(LOOP, "    go_on(x, n);")


def test_edits_apply_in_order() -> None:
    reply = edit(LOOP, "    a(x);") + edit("    a(x);", "    b(x);")
    assert "    b(x);" in files_of(reply, EDIT)["kernel.cpp"]


@pytest.mark.parametrize(
    ("reply", "expected", "says"),
    [
        ("I cannot improve this kernel.", EDIT, "neither a file nor an edit"),
        (edit("nowhere to be found", "x"), EDIT, "is not in `kernel.cpp`"),
        (edit("    for (int64_t j = 0; j < n; ++j) x[j] = 0;", "x"), EDIT, "the nearest line there is"),
        (edit(LOOP, LOOP), EDIT, "change nothing"),
        (edit(LOOP, "y"), NEW, "there is none to edit"),
        (edit("x", "y", before="`other.cpp`\n"), EDIT, "the files are: kernel.py, kernel.cpp"),
        ("`kernel.cpp`\n<<<<<<< SEARCH\nfor\n", EDIT, "cut off"),
        (f"`kernel.py`\n```python\n{PY}```\n`kernel.cpp`\n```cpp\n{CPP}", NEW, "not closed"),
        (f"`kernel.cpp`\n```cpp\n{CPP}```\n", NEW, "`kernel.py` is missing"),
        (f"`kernel.py`\n```python\n{PY}```\n", NEW, "opens `kernel.cpp`, which is not among"),
        ("`kernel.py`\n```python\ndef f(x:\n    return x\n```\n", NEW, "is no Python"),
        ("`kernel.py`\n```python\ndef g(x):\n    return x\n```\n", NEW, "does not define `f`"),
        (f"```python\n{PY}```\n`kernel.cpp`\n```cpp\nvoid stop();\n```\n", NEW, "no function `go`"),
        ("`a/../../b.py`\n```python\ndef f(x):\n    return x\n```\n", NEW, "outside"),
        (f"`kernel.cpp`\n```cpp\n{CPP}// ... rest of the code\n```\n", EDIT, "leaves something out"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused_with_the_reason(reply: str, expected: Expected, says: str) -> None:
    with pytest.raises(MalformedReplyError) as caught:
        files_of(reply, expected)
    assert says in caught.value.what


def test_lines_that_occur_twice_need_more_around_them() -> None:
    twice = Expected("kernel.py", "kernel.cpp", "f", BOTH | {"kernel.cpp": CPP + CPP})
    with pytest.raises(MalformedReplyError, match="occurs 2 times"):
        files_of(edit(LOOP, "y"), twice)


DIFF = "@@ -1,4 +1,4 @@\n \n-    for (int64_t i = 0; i < n; ++i) x[i] = 0;\n+    go_on(x, n);\n }\n"


@pytest.mark.parametrize(
    "reply",
    [
        f"`kernel.cpp`\n```diff\n{DIFF}```\n",
        f"```diff\n--- a/kernel.cpp\n+++ b/kernel.cpp\n{DIFF}```\n",
        f"```diff\n{DIFF}```\n",
        f"`kernel.cpp`\n```\n--- kernel.cpp\n+++ kernel.cpp\n{DIFF.replace('-1,4 +1,4', '-7 +9')}```\n",
        f"```diff\n{DIFF.replace(' }', '}').replace('@@ -1,4 +1,4 @@', '@@ ... @@')}\n```\n",
    ],
)
def test_a_diff_is_an_edit_wherever_its_lines_stand(reply: str) -> None:
    base = BOTH | {"kernel.cpp": CPP.replace(LOOP, f"\n{LOOP}\n}}\nvoid more() {{")}
    expected = Expected("kernel.py", "kernel.cpp", "f", base)
    assert files_of(reply, expected)["kernel.cpp"] == base["kernel.cpp"].replace(LOOP, "    go_on(x, n);")


def test_a_diff_beside_the_whole_file_is_an_illustration() -> None:
    reply = f"```diff\n{DIFF}```\nThe file:\n`kernel.cpp`\n```cpp\n{CPP}// new\n```\n"
    assert files_of(reply, EDIT)["kernel.cpp"] == CPP + "// new\n"


def test_a_diff_that_fits_nowhere_costs_no_evaluation() -> None:
    with pytest.raises(MalformedReplyError, match=r"is not in `kernel.cpp`"):
        files_of(f"`kernel.cpp`\n```diff\n{DIFF.replace('x[i] = 0', 'y[i] = 0')}```\n", EDIT)
    with pytest.raises(MalformedReplyError, match="neither a file nor an edit"):
        files_of(f"`kernel.cpp`\n```diff\n{DIFF}```\n", NEW)


def test_reasoning_whose_beginning_the_template_wrote_is_no_part_of_the_answer() -> None:
    thought = f"I try\n```python\n{PY}```\n<<<<<<< SEARCH\nno\n</think>\n"
    reply = f"{thought}```python\n# kernel.py\n{PY}```\n```cpp\n{CPP}```\n"
    assert files_of(reply, NEW)["kernel.cpp"] == CPP


def test_edits_of_a_reply_that_was_cut_off_may_be_half_of_them() -> None:
    with pytest.raises(MalformedReplyError, match="more changes may have been meant"):
        files_of(edit(LOOP, "    go_on(x, n);"), EDIT, cut=True)
    whole = f"`kernel.py`\n```python\n{PY}```\n\n`kernel.cpp`\n```cpp\n{CPP}// new\n```\nThis is fas"
    assert files_of(whole, EDIT, cut=True)["kernel.cpp"] == CPP + "// new\n"
