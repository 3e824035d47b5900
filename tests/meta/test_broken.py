"""The conformance kit catches what it is meant to catch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"meta_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


cases = _module("cases")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy, and the parts beside the broken backends, for this process and those it starts."""
    monkeypatch.syspath_prepend(str(cases.HERE))
    monkeypatch.syspath_prepend(str(cases.TOY))
    yield
    for left in Path("/tmp").glob("kevolve-broken-backend-left-this-*"):
        left.unlink(missing_ok=True)


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_a_broken_backend_fails_the_check_meant_for_it(case: cases.Broken) -> None:  # type: ignore[name-defined]
    expected = {case.check, *case.also}
    found = cases.failures(case, only=(case.check, *case.also))
    assert set(found) == expected
    said = found[case.check]
    assert "expected no exception here" not in said  # the check says what is wrong, not that something raised
    assert said.startswith("expected ")
    assert "got:" in said
    assert "mend:" in said


def test_every_check_but_that_for_a_device_has_a_broken_backend_of_its_own() -> None:
    from kevolve_core.testing.suite import all_checks

    without = {check.id for check in all_checks()} - {case.check for case in cases.CASES}
    assert without == {"tier.device", "synth.prints", "numeric.copy"}


def test_the_table_of_broken_backends_is_current() -> None:
    assert cases.PAGE.read_text() == cases.table(), "run: python tests/meta/cases.py --write"
