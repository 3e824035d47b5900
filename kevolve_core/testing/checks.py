"""What a check is: an id, a function of the subject, and the three ways it can end.

A check returns when all is well, raises `NonConformanceError` for what is wrong with the backend and
`SkippedError` for what does not apply. Anything else it raises is the backend's doing, too, and fails it
with the traceback.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from attrs import field, frozen

from kevolve_core.errors import KevolveError, RunLockedError, WorkerError
from kevolve_core.testing.result import CheckReport, Outcome

if TYPE_CHECKING:
    from kevolve_core.testing.expect import Expectations
    from kevolve_core.testing.subject import Subject

__all__ = ["Check", "NonConformanceError", "SkippedError", "fail", "judged", "run_check"]

_TRACE = 3000  # characters of a traceback that are shown


class NonConformanceError(KevolveError):
    """A backend does not do what the contract asks: what was expected, what was got, and what to mend."""


class SkippedError(Exception):
    """The check does not apply to this backend; says why."""


def fail(expected: str, *, got: object, mend: str, where: str | None = None) -> NonConformanceError:
    """The error of a check: ``raise fail("expected …", got=…, mend="…")``."""
    return NonConformanceError(f"expected {expected}", got=got, where=where, mend=mend)


@frozen
class Check:
    """One requirement.

    Args:
        id: ``group.name``; what `conformance.toml` names.
        run: raises where the subject does not meet it.
        tiers: in which it is run: ``(0,)`` without hardware, ``(1, 2)`` on a simulator or device.
        capabilities: the subject's device must declare these, or the check is skipped.
    """

    id: str
    run: Callable[[Subject], None] = field(eq=False)
    tiers: tuple[int, ...]
    capabilities: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The first paragraph of the function's docstring."""
        first = (self.run.__doc__ or self.id).strip().partition("\n\n")[0]
        return " ".join(first.split()).rstrip(".")


def run_check(check: Check, subject: Subject, tier: int) -> CheckReport:
    """Run one check; what it raises becomes its outcome."""
    start = time.perf_counter()

    def report(outcome: Outcome, message: str = "") -> CheckReport:
        return CheckReport(check.id, tier, check.title, outcome, time.perf_counter() - start, message)

    try:
        subject.require(check, tier)
        check.run(subject)
    except SkippedError as reason:
        return report(Outcome.SKIPPED, str(reason))
    except NonConformanceError as error:
        return report(Outcome.FAILED, str(error))
    except RunLockedError:
        raise
    except (Exception, SystemExit) as error:
        return report(Outcome.FAILED, _unforeseen(error))
    return report(Outcome.PASSED)


def _unforeseen(error: BaseException) -> str:
    """A part of the backend that raised what nobody asked it to."""
    log = getattr(error, "log", "") if isinstance(error, WorkerError) else ""
    trace = log or "".join(traceback.format_exception(error))
    return str(
        NonConformanceError(
            "expected no exception here",
            got=f"{type(error).__name__}: {error}",
            mend="find the line in the traceback below\n" + trace[-_TRACE:].rstrip(),
        )
    )


def judged(report: CheckReport, expectations: Expectations) -> CheckReport:
    """``report`` in the light of the failures that ``conformance.toml`` expects."""
    expected = expectations.failures.get(report.id)
    if expected is None or report.outcome is Outcome.SKIPPED:
        return report
    outcome, message = Outcome.EXPECTED_FAILURE, report.message
    if report.outcome is Outcome.PASSED:
        outcome = Outcome.UNEXPECTED_PASS
        message = str(
            NonConformanceError(
                "expected this check to fail, as listed",
                got="it passes: the entry is stale",
                where=str(expectations.file),
                mend=f"remove the entry with id = {report.id!r}",
            )
        )
    return CheckReport(
        report.id,
        report.tier,
        report.title,
        outcome,
        report.seconds,
        message,
        expected.reason,
        expected.issue,
    )


def unknown_ids(expectations: Expectations, known: Iterable[str]) -> tuple[str, ...]:
    """Expected failures that name no check."""
    return tuple(sorted(set(expectations.failures) - set(known)))
