"""`conformance.toml` and what it does to outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.errors import ConfigError, UnknownNameError
from kevolve_core.testing import CheckReport, Conformance, Expectations, ExpectedFailure, Outcome
from kevolve_core.testing.checks import judged
from kevolve_core.testing.expect import read_expectations
from kevolve_core.testing.suite import check_ids, stale_ids

FULL = """
schema = 1
backend = "acme"
tiers = [0, 2]
probes = "kevolve_acme.probes:kernels"
[device]
id = "acme:0"
arch = "x1"
facts = {cores = 64}
[[expected_failures]]
id = "timing.floor"
reason = "a coarse clock"
issue = "https://acme.example/7"
"""


def read(folder: Path, text: str) -> Expectations:
    file = folder / "conformance.toml"
    file.write_text(text)
    return read_expectations(file)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    device = found.described_device("acme", frozenset({"compile"}))
    assert device is not None
    assert (found.backend, found.tiers, found.probes) == ("acme", (0, 2), "kevolve_acme.probes:kernels")
    assert (device.id, device.target.arch, dict(device.facts)) == ("acme:0", "x1", {"cores": 64})
    assert found.failures["timing.floor"].issue == "https://acme.example/7"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backend = 'a'", "states no schema version"),
        ("schema = 1\nbackends = 'a'", "did you mean 'backend'"),
        ("schema = 1\ntiers = [3]", "no such tier"),
        ("schema = 1\nprobes = 'nothing'", "names no attribute"),
        ("schema = 1\n[device]\nid = 'a'", "needs 'arch'"),
        ("schema = 1\n[[expected_failures]]\nid = 'a.b'\nreason = 'r'", "has no 'issue'"),
        ("schema = 1\n[expected_failures]\na = 1", "array of tables"),
        (
            "schema = 1\n[[expected_failures]]\nid = 'a'\nreason = 'r'\nissue = 'i'\nwhy = 'x'",
            "unknown key 'why'",
        ),
        ("schema = ", "not valid TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, text)


def report(outcome: Outcome) -> CheckReport:
    return CheckReport("timing.floor", 2, "title", outcome, 0.1, "what it said")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Outcome.FAILED, Outcome.EXPECTED_FAILURE),
        (Outcome.PASSED, Outcome.UNEXPECTED_PASS),
        (Outcome.SKIPPED, Outcome.SKIPPED),
    ],
)
def test_an_expected_failure_changes_the_outcome(before: Outcome, after: Outcome) -> None:
    listed = Expectations(failures={"timing.floor": ExpectedFailure("timing.floor", "why", "where")})
    assert judged(report(before), listed).outcome is after
    assert judged(report(before), Expectations()).outcome is before


def test_an_id_that_is_no_check_is_stale() -> None:
    listed = {name: ExpectedFailure(name, "why", "where") for name in ("timing.floor", "timing.flor")}
    assert stale_ids(Expectations(failures=listed)) == ("timing.flor",)


def test_an_unknown_check_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'timing\.floor'"):
        check_ids(("timing.flor",))


@pytest.mark.parametrize(
    ("outcomes", "stale", "conformant"),
    [
        ((Outcome.PASSED, Outcome.SKIPPED), (), True),
        ((Outcome.PASSED, Outcome.EXPECTED_FAILURE), (), True),
        ((Outcome.PASSED, Outcome.FAILED), (), False),
        ((Outcome.PASSED, Outcome.UNEXPECTED_PASS), (), False),
        ((Outcome.PASSED,), ("gone.check",), False),
        ((Outcome.SKIPPED,), (), False),
    ],
)
def test_what_is_conformant(outcomes: tuple[Outcome, ...], stale: tuple[str, ...], conformant: bool) -> None:
    result = Conformance("acme", (2,), tuple(report(o) for o in outcomes), stale)
    assert (result.conformant, result.plain()["conformant"]) == (conformant, conformant)
