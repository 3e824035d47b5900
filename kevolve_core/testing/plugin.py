"""The pytest plugin of the conformance kit, installed with the core wheel (entry point ``pytest11``).

Options:

- ``--kevolve-backend NAME``: the backend to test; by default the one that ``conformance.toml`` names;
- ``--kevolve-tier N``: 0 no hardware, 1 a simulator, 2 a device; may be given several times; by default those
  that ``conformance.toml`` claims, else 0;
- ``--kevolve-expect FILE``: the ``conformance.toml``; by default the nearest in or above the test's folder;
- ``--kevolve-json FILE``: where the result goes; ``conformance.json`` in pytest's root folder where a
  backend or tier is asked for by option, else it is not written;
- ``--kevolve-plugins FILE``: a ``plugins.toml``; by default installed plugins.

`test_conformance` comes from `kevolve_core.testing.conformance`. A vendor's own tests may use the fixtures
``kevolve_subject`` (the backend under test) and ``kevolve_device``, and the marks

- ``@pytest.mark.kevolve_tier(2)``: only in that tier;
- ``@pytest.mark.kevolve_capability("counters")``: only where the device declares it;
- ``@pytest.mark.kevolve_api(1, 1)``: only with plugin API 1.1 or newer of the same major.

A test that does not apply is skipped with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kevolve_core.model import Device
    from kevolve_core.testing.result import CheckReport
    from kevolve_core.testing.subject import Subject

__all__: list[str] = []

_MARKS = (
    "kevolve_tier(n): run in conformance tier n only (0 no hardware, 1 simulator, 2 device)",
    "kevolve_capability(name): run where the device of the backend under test declares the capability",
    "kevolve_api(major, minor): run with this plugin API or a newer minor of it",
)
_FILE = "conformance.toml"
_STALE = "expectations.current"


class _Kit:
    """One pytest session's run of the kit."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._subjects: dict[str, Subject] = {}
        self._reports: dict[str, list[CheckReport]] = {}

    def option(self, name: str) -> Any:
        return self.config.getoption(f"kevolve_{name}")

    def expect(self, beside: Path) -> Path | None:
        """The conformance.toml asked for, or the nearest in or above the folder ``beside``."""
        if given := self.option("expect"):
            return Path(given)
        root = self.config.rootpath
        for folder in (beside, *beside.parents):
            if (folder / _FILE).is_file():
                return folder / _FILE
            if folder == root:
                break
        return None

    def tiers(self, beside: Path) -> tuple[int, ...]:
        """The tiers to collect; nothing of the backend is imported for it."""
        from kevolve_core.testing.expect import read_expectations

        if asked := self.option("tier"):
            return tuple(dict.fromkeys(asked))
        file = self.expect(beside)
        return (read_expectations(file).tiers if file else ()) or (0,)

    def subject(self, beside: Path) -> Subject:
        """The backend under test, made once a session."""
        from kevolve_core.testing.expect import read_expectations

        expect = self.expect(beside)
        name = self.option("backend") or (read_expectations(expect).backend if expect else "")
        if not name:
            pytest.fail(
                f"which backend? Give --kevolve-backend NAME, or backend = NAME in {_FILE}", pytrace=False
            )
        if name not in self._subjects:
            from kevolve_core.registry import discover
            from kevolve_core.testing.subject import subject_of

            plugins = self.option("plugins")
            self._subjects[name] = subject_of(discover(Path(plugins) if plugins else None), name, expect)
        return self._subjects[name]

    def note(self, subject: Subject, report: CheckReport) -> None:
        """A check of ``subject`` ended so."""
        self._reports.setdefault(subject.name, []).append(report)

    def close(self) -> None:
        """Write the results where they were asked for, and end what runs."""
        asked = any(self.option(name) for name in ("backend", "tier", "json"))
        for name, subject in self._subjects.items():
            try:
                if asked and (reports := self._reports.get(name)):
                    self._write(subject, reports)
            finally:
                subject.close()
        self._subjects.clear()

    def _write(self, subject: Subject, reports: Sequence[CheckReport]) -> None:
        from kevolve_core.testing.result import RESULT_FILE, write_result
        from kevolve_core.testing.suite import conclude

        file = Path(self.option("json") or self.config.rootpath / RESULT_FILE)
        if len(self._subjects) > 1:
            file = file.with_name(f"{file.stem}-{subject.name}{file.suffix}")
        write_result(conclude(subject, sorted({report.tier for report in reports}), reports), file)


_KIT = pytest.StashKey[_Kit]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kevolve", "Kevolve conformance kit")
    group.addoption("--kevolve-backend", metavar="NAME", help="the backend to test")
    group.addoption(
        "--kevolve-tier",
        type=int,
        choices=(0, 1, 2),
        action="append",
        help="0 no hardware, 1 simulator, 2 device; may be given several times",
    )
    group.addoption("--kevolve-expect", metavar="FILE", help="conformance.toml of expected failures")
    group.addoption("--kevolve-json", metavar="FILE", help="where the result goes (conformance.json)")
    group.addoption("--kevolve-plugins", metavar="FILE", help="a plugins.toml")


def pytest_configure(config: pytest.Config) -> None:
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)
    config.stash[_KIT] = _Kit(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _KIT in config.stash:
        config.stash[_KIT].close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a check of the tiers asked for."""
    if "kevolve_check" not in metafunc.fixturenames:
        return
    from kevolve_core.errors import KevolveError
    from kevolve_core.testing.suite import checks_of

    kit = metafunc.config.stash[_KIT]
    try:
        tiers = kit.tiers(metafunc.definition.path.parent)
    except KevolveError as error:
        raise pytest.UsageError(str(error)) from error
    several = len(tiers) > 1
    params = [
        pytest.param((check.id, tier), id=f"{check.id}-tier{tier}" if several else check.id)
        for tier in tiers
        for check in checks_of(tier)
    ]
    metafunc.parametrize(
        "kevolve_check", [*params, pytest.param((_STALE, tiers[0]), id=_STALE)], indirect=True
    )


@pytest.fixture
def kevolve_subject(request: pytest.FixtureRequest) -> Subject:
    """The backend under test (`kevolve_core.testing.Subject`)."""
    from kevolve_core.errors import KevolveError

    try:
        return request.config.stash[_KIT].subject(request.path.parent)
    except KevolveError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def kevolve_device(kevolve_subject: Subject) -> Device:
    """Its first device; skips where there is none."""
    from kevolve_core.testing.checks import SkippedError

    try:
        return kevolve_subject.device
    except SkippedError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def kevolve_check(request: pytest.FixtureRequest, kevolve_subject: Subject) -> Callable[[], None]:
    """Runs one check, notes its outcome and fails, skips or xfails accordingly."""
    from kevolve_core.testing.checks import judged, run_check
    from kevolve_core.testing.result import Outcome
    from kevolve_core.testing.suite import checks_of, stale_ids

    name, tier = request.param

    def run() -> None:
        if name == _STALE:
            if stale := stale_ids(kevolve_subject.expectations):
                file = kevolve_subject.expectations.file
                pytest.fail(
                    f"expected failures that are no check: {', '.join(stale)} ({file})", pytrace=False
                )
            return
        check = next(c for c in checks_of(tier) if c.id == name)
        report = judged(run_check(check, kevolve_subject, tier), kevolve_subject.expectations)
        request.config.stash[_KIT].note(kevolve_subject, report)
        if report.bad:
            pytest.fail(f"{report.title}\n{report.message}", pytrace=False)
        if report.outcome is Outcome.EXPECTED_FAILURE:
            pytest.xfail(f"{report.reason} ({report.issue})")
        if report.outcome is Outcome.SKIPPED:
            pytest.skip(report.message)

    return run


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the marks exclude."""
    kit, beside = item.config.stash[_KIT], item.path.parent
    mark = item.get_closest_marker("kevolve_tier")
    if mark and mark.args[0] not in kit.tiers(beside):
        pytest.skip(f"tier {mark.args[0]} is not asked for (--kevolve-tier {mark.args[0]})")
    if mark := item.get_closest_marker("kevolve_api"):
        from kevolve_core.interfaces import API_VERSION

        major, minor = mark.args
        if API_VERSION[0] != major or API_VERSION[1] < minor:
            pytest.skip(f"needs plugin API {major}.{minor}; this is {API_VERSION[0]}.{API_VERSION[1]}")
    if mark := item.get_closest_marker("kevolve_capability"):
        from kevolve_core.testing.checks import SkippedError

        try:
            device = kit.subject(beside).device
        except SkippedError as reason:
            pytest.skip(str(reason))
        if mark.args[0] not in device.capabilities:
            pytest.skip(f"device '{device.id}' does not declare the capability '{mark.args[0]}'")
