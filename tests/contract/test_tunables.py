"""Tunables that a candidate declares: read without running, checked, and set in the source."""

from __future__ import annotations

import pytest

from kevolve_core.errors import ConfigError
from kevolve_core.model import Candidate
from kevolve_core.tunables import declared, tuned

ENTRY = """# größer ist schneller
KEVOLVE_TUNABLES = {"BLOCK": [64, 128, 256], "WARPS": (4, 8), "MODE": ["a", "b"], "UNROLL": [1, 2]}
KEVOLVE_CONSTRAINTS = ["BLOCK * WARPS <= 1024", "MODE == 'a' or WARPS == 4"]
BLOCK: int = 128  # threads
WARPS = 4
MODE = "a"


def f(x):
    return x
"""
NATIVE = "#define UNROLL 2\nvoid f() {}\n"


def kernel(entry: str = ENTRY, native: str = NATIVE) -> Candidate:
    return Candidate({"k.py": entry, "k.cpp": native}, "k.py", "cpp")


def test_the_space_is_what_the_source_declares() -> None:
    found = declared(kernel())
    assert found is not None
    assert found.space.default() == {"BLOCK": 128, "WARPS": 4, "MODE": "a", "UNROLL": 2}
    assert [p.choices for p in found.space.parameters] == [(64, 128, 256), (4, 8), ("a", "b"), (1, 2)]
    assert found.space.is_legal({"BLOCK": 256, "WARPS": 4, "MODE": "b", "UNROLL": 1})
    assert not found.space.is_legal({"BLOCK": 256, "WARPS": 8, "MODE": "a", "UNROLL": 1})
    assert not found.space.is_legal({"BLOCK": 64, "WARPS": 8, "MODE": "b", "UNROLL": 1})


def test_a_tuned_candidate_differs_in_its_literals_alone() -> None:
    one = kernel()
    found = declared(one)
    assert found is not None
    made = tuned(one, found, {"BLOCK": 256, "WARPS": 4, "MODE": "b", "UNROLL": 1})
    expected = ENTRY.replace("= 128 ", "= 256 ").replace('MODE = "a"', "MODE = 'b'")
    assert dict(made.files) == {"k.py": expected, "k.cpp": "#define UNROLL 1\nvoid f() {}\n"}
    again = declared(made)
    assert again is not None
    assert again.structure == found.structure
    assert again.space.default() == {"BLOCK": 256, "WARPS": 4, "MODE": "b", "UNROLL": 1}
    assert made.genome == found.genome(again.space.default())


def test_other_code_is_another_structure() -> None:
    one, other = declared(kernel()), declared(kernel(ENTRY.replace("return x", "return x + 1")))
    assert one is not None
    assert other is not None
    assert one.structure != other.structure


def test_native_constants_are_found() -> None:
    native = "// UNROLL\nstatic constexpr int UNROLL = 2;\nint g() { return UNROLL; }\n"
    one = kernel(native=native)
    found = declared(one)
    assert found is not None
    point = {**found.space.default(), "UNROLL": 1}
    assert tuned(one, found, point).files["k.cpp"] == native.replace("= 2;", "= 1;")


def test_a_candidate_that_declares_nothing_has_none() -> None:
    assert declared(kernel("def f(x):\n    return x\n")) is None
    assert declared(kernel("KEVOLVE_TUNABLES = (")) is None  # the compiler will say so


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('"BLOCK": [64', "str(): [64"), "no literal"),
        (("(4, 8)", "()"), "1 to 64 choices"),
        (("(4, 8)", "(4, 4)"), "twice"),
        (("(4, 8)", "(4, [8])"), "numbers, words or flags"),
        (("WARPS = 4", "WARPS = 2"), "none of its choices"),
        (("WARPS = 4", "WARPS = 2 + 2"), "not assigned a literal"),
        (("WARPS = 4", ""), "in one place"),
        (("BLOCK * WARPS <= 1024", "BLOCK * WARPS <= 100"), "constraint of their own"),
        (("BLOCK * WARPS <= 1024", "SIZE <= 100"), "no tunable"),
        (("BLOCK * WARPS <= 1024", "BLOCK **"), "no expression"),
        (("BLOCK * WARPS <= 1024", "BLOCK.real <= 100"), "more than it may"),
        (("BLOCK * WARPS <= 1024", "(lambda: 1)()"), "more than it may"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_refused(change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        declared(kernel(ENTRY.replace(*change)))
    assert "k.py" in str(caught.value)


def test_reading_a_declaration_runs_nothing() -> None:
    text = ENTRY.replace('"BLOCK * WARPS <= 1024"', "\"__import__('os').system('false') == 0\"")
    with pytest.raises(ConfigError, match="no tunable"):
        declared(kernel(text))


@pytest.mark.parametrize(
    "constraint",
    [
        "+".join(["WARPS"] * 5000) + " > 0",
        "(" * 3000 + "1" + ")" * 3000,
        "MODE * 99999999999 == 'b'",
        "'\\x00'",
    ],
    ids=["long", "deep", "a long word", "a null byte"],
)
def test_a_constraint_that_cannot_be_computed_is_refused_and_not_tried(constraint: str) -> None:
    """A model wrote it, and this process reads it."""
    text = ENTRY.replace("MODE == 'a' or WARPS == 4", constraint)
    with pytest.raises(ConfigError, match=r"no expression|break a constraint|no literal"):
        declared(kernel(text))
