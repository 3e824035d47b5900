"""Exported kernels: one file, nothing of Kevolve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kevolve_core.bundle import export
from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.model import Candidate

PARTS = '''"""A loader in two parts."""
# --- load_native: for tests ---
import types


def load_native(file, functions):
    return types.SimpleNamespace()


# --- replayed: for tests ---
import functools


def replayed(run, inputs):
    return functools.partial(run, inputs)
'''

LOADER = '''"""A loader for tests: reads numbers instead of compiling."""
from __future__ import annotations
import types


def load_native(file, functions):
    text = _SOURCES[file]
    return types.SimpleNamespace(**{name: (lambda: text) for name in functions})
'''

ENTRY = '''"""Docstring of the entry: naïve ✓."""

from __future__ import annotations

from kevolve_core.native import load_native

_LIB = load_native("kernel.cpp", {"run": "p"})


def op(x):
    return x, _LIB.run()
'''


def candidate(entry: str = ENTRY, symbol: str = "op", **files: str) -> Candidate:
    natives = files or {"kernel.cpp": 'int x = 1; // "quoted" \\n\n'}
    return Candidate(files={"kernel.py": entry, **natives}, entry="kernel.py", language="cpp", symbol=symbol)


def run(text: str, expression: str, tmp_path: Path) -> str:
    """What ``expression`` prints in a process that cannot import Kevolve."""
    (tmp_path / "k.py").write_text(text)
    code = f"import sys; sys.modules['kevolve_core'] = None; import k; print({expression})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_an_export_runs_without_kevolve_and_carries_its_native_source(tmp_path: Path) -> None:
    text = export(candidate(), LOADER)
    assert run(text, "k.op(3)", tmp_path) == repr((3, 'int x = 1; // "quoted" \\n\n'))


def test_an_export_keeps_the_docstring_of_the_entry(tmp_path: Path) -> None:
    assert run(export(candidate(), LOADER), "k.__doc__", tmp_path) == "Docstring of the entry: naïve ✓."


@pytest.mark.parametrize("source", ["'''", '"""', "ends in quote\"'", "back\\", "\r\n", 'r"""x""" \'\'\''])
def test_native_source_survives_any_quoting(source: str, tmp_path: Path) -> None:
    text = export(candidate(**{"kernel.cpp": source}), LOADER)
    assert run(text, "repr(k.op(0)[1])", tmp_path) == repr(source)


def test_an_alias_and_an_import_inside_a_function_are_replaced(tmp_path: Path) -> None:
    entry = (
        "def op():\n    from kevolve_core.native import load_native as open_it\n"
        "    return open_it('kernel.cpp', {'run': 'p'}).run()\n"
    )
    assert run(export(candidate(entry, **{"kernel.cpp": "42"}), LOADER), "k.op()", tmp_path) == "42"


def test_an_import_that_shares_its_line_is_replaced(tmp_path: Path) -> None:
    entry = "from kevolve_core.native import load_native; K = 7\ndef op(): return K\n"
    assert run(export(candidate(entry), LOADER), "k.op()", tmp_path) == "7"


def test_an_entry_without_native_files_needs_no_loader(tmp_path: Path) -> None:
    plain = Candidate(
        files={"k.py": "def op(x):\n    return x + 1\n"}, entry="k.py", language="x", symbol="op"
    )
    assert run(export(plain, ""), "k.op(1)", tmp_path) == "2"


def test_another_import_of_kevolve_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"kernel\.py:1"):
        export(candidate("import kevolve_core\ndef op(): pass\n"), LOADER)


def test_a_second_python_file_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"helper\.py"):
        export(candidate(**{"helper.py": "x = 1"}), LOADER)


def test_a_missing_symbol_lists_what_is_defined() -> None:
    with pytest.raises(KevolveError, match=r"does not define 'ModelNew'(?s:.*)op"):
        export(candidate(symbol=""), LOADER)


def test_names_that_entry_and_loader_both_define_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="helper"):
        export(candidate(ENTRY + "\ndef helper(): pass\n"), LOADER + "\ndef helper(): pass\n")


def test_a_language_without_loader_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no stand-alone loader"):
        export(candidate(), "")


@pytest.mark.parametrize(
    ("names", "carried"),
    [
        ("load_native", ("def load_native", "import types")),
        ("replayed", ("def replayed", "import functools")),
        ("load_native, replayed", ("def load_native", "def replayed")),
    ],
)
def test_an_export_carries_the_parts_of_a_loader_that_it_uses(names: str, carried: tuple[str, ...]) -> None:
    entry = f"from kevolve_core.native import {names}\n\n\ndef f(x):\n    return x\n"
    text = export(Candidate({"kernel.py": entry}, "kernel.py", "cpp", symbol="f"), PARTS)
    wanted = ("def load_native", "def replayed", "import types", "import functools")
    found = {part for part in wanted if part in text}
    assert set(carried) <= found
    assert ("def load_native" in found, "def replayed" in found) == (
        "load_native" in names,
        "replayed" in names,
    )


def test_a_loader_without_what_the_entry_uses_is_refused() -> None:
    entry = "from kevolve_core.native import replayed\n\n\ndef f(x):\n    return x\n"
    with pytest.raises(UnsupportedError, match="no replayed"):
        export(Candidate({"kernel.py": entry}, "kernel.py", "cpp", symbol="f"), LOADER)
