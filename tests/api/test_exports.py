"""What `import kevolve_core` gives, and what it costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import kevolve_core

PUBLIC = [
    "Budget", "Candidate", "Evaluation", "Evidence", "KernelSpec", "KevolveError", "Measurement", "Ratio",
    "Registry", "Result", "Verdict", "discover", "dump_spec", "evaluate", "evolve", "evolve_async", "export",
    "load_result", "load_seed", "load_spec", "repro", "resume", "resume_async", "spec_from_function",
]  # fmt: skip


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_public_names_change_on_purpose_only() -> None:
    assert sorted(kevolve_core.__all__, key=lambda n: (n[0].islower(), n)) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(kevolve_core, name))


def test_importing_the_package_imports_neither_torch_nor_a_database() -> None:
    code = (
        "import sys, kevolve_core; print([m for m in ('torch', 'sqlalchemy', 'numpy') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_importing_the_command_line_imports_no_torch() -> None:
    code = "import sys, kevolve_core.cli.app, kevolve_core.cli.evolve; print('torch' in sys.modules)"
    assert python(code) == "False"


@pytest.mark.parametrize(
    ("name", "first"),
    [("evolve", ""), ("evolve", "import kevolve_core.{0}"), ("evaluate", "from kevolve_core import {0}")],
)
def test_a_function_that_shares_its_name_with_a_package_is_both(name: str, first: str) -> None:
    code = f"""{first.format(name)}
import types, kevolve_core
it = kevolve_core.{name}
import kevolve_core.{name} as package
print(callable(it), it is package, isinstance(it, types.ModuleType))
try:
    it()
except TypeError as error:
    print(error)
"""
    lines = python(code).splitlines()
    assert lines[0] == "True True True"
    assert f"{name}()" in lines[1]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="evolv"):
        importlib.import_module("kevolve_core").evolv  # noqa: B018
