"""The checks in order, and running them: what `kevolve conformance` does, and pytest one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from kevolve_core.errors import ConfigError, UnknownNameError, suggest
from kevolve_core.interfaces import API_VERSION
from kevolve_core.model import Evidence
from kevolve_core.testing.checks import Check, judged, run_check, unknown_ids
from kevolve_core.testing.expect import TIERS, Expectations
from kevolve_core.testing.result import CheckReport, Conformance

if TYPE_CHECKING:
    from kevolve_core.testing.subject import Subject

__all__ = ["all_checks", "check_ids", "checks_of", "conclude", "run_suite", "stale_ids", "tiers_of"]


def all_checks() -> tuple[Check, ...]:
    """Every check, in the order they run: what is cheap and what others rest on first."""
    from kevolve_core.testing import (  # late: they import torch
        compiling,
        containing,
        declaring,
        importing,
        numerics,
        pages,
        probing,
        profiling,
        rendering,
        running,
        teardown,
        timing,
    )

    modules = (
        importing, probing, declaring, compiling, rendering, pages, running, numerics, timing, profiling,
        containing, teardown,
    )  # fmt: skip
    return tuple(check for module in modules for check in module.CHECKS)


def checks_of(tier: int) -> tuple[Check, ...]:
    """The checks of one tier."""
    return tuple(check for check in all_checks() if tier in check.tiers)


def check_ids(names: Iterable[str]) -> None:
    """Raise UnknownNameError where one of ``names`` is no check."""
    known = dict.fromkeys(check.id for check in all_checks())
    for name in names:
        if name not in known:
            raise UnknownNameError(
                f"there is no check '{name}'",
                got=name,
                mend=suggest(name, known) or "see `kevolve conformance NAME --list`",
            )


def tiers_of(subject: Subject, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """Those asked for, else those claimed in ``conformance.toml``, else 0 and the one that fits the backend's
    evidence where a device was found. Raises ConfigError for one that there is not."""
    if bad := [tier for tier in asked if tier not in TIERS]:
        raise ConfigError(
            "there is no such tier", got=bad[0], mend="0 (no hardware), 1 (simulator), 2 (device)"
        )
    if asked or subject.expectations.tiers:
        return tuple(sorted({*(asked or subject.expectations.tiers)}))
    seen = subject.report.backends.get(subject.name)
    if seen is None or not subject.found:
        return (0,)
    return (0, 2) if seen.manifest.evidence == Evidence.MEASURED else (0, 1)


def run_suite(
    subject: Subject,
    tiers: Iterable[int],
    *,
    only: Iterable[str] = (),
    on_check: Callable[[CheckReport], None] | None = None,
) -> Conformance:
    """Run every check of ``tiers`` (``only`` those named), each once.

    Args:
        on_check: hears of each as it ends.
    """
    tiers, wanted = tuple(tiers), set(only)
    reports: list[CheckReport] = []
    for tier in tiers:
        for check in checks_of(tier):
            if wanted and check.id not in wanted:
                continue
            reports.append(judged(run_check(check, subject, tier), subject.expectations))
            if on_check is not None:
                on_check(reports[-1])
    return conclude(subject, tiers, reports)


def conclude(subject: Subject, tiers: Sequence[int], reports: Sequence[CheckReport]) -> Conformance:
    """The result of a run whose checks ended so."""
    seen = subject.report.backends.get(subject.name)
    device = None if seen is None or not seen.devices else seen.devices[0]
    return Conformance(
        backend=subject.name,
        tiers=tuple(tiers),
        checks=tuple(reports),
        stale=stale_ids(subject.expectations),
        evidence="" if seen is None else seen.manifest.evidence,
        device=None if device is None else {"id": device.id, "name": device.name, "arch": device.target.arch},
        versions=_versions(subject),
    )


def stale_ids(expectations: Expectations) -> tuple[str, ...]:
    """Expected failures that name no check of any tier."""
    return unknown_ids(expectations, (check.id for check in all_checks()))


def _versions(subject: Subject) -> dict[str, str]:
    import platform
    from importlib.metadata import version

    from kevolve_core.registry.compat import core_version

    found = {
        "kevolve": core_version(),
        "api": f"{API_VERSION[0]}.{API_VERSION[1]}",
        "python": platform.python_version(),
        "torch": version("torch"),
    }
    name, release = subject.distribution
    return found | ({name: release} if name else {})
