"""The conformance kit: a vendor proves his backend with one import line; platform teams read the result.

See `kevolve_core.testing.plugin` for pytest, ``kevolve conformance NAME`` for the command line, and
`run_suite` to run it from a program. `ProbeKernels` are what a vendor supplies; ``conformance.toml`` is
described in `kevolve_core.testing.expect`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kevolve_core.testing.expect import Expectations, ExpectedFailure, read_expectations
from kevolve_core.testing.probes import PROBE_SYMBOL, ProbeKernels, SuppliesProbes
from kevolve_core.testing.result import RESULT_FILE, CheckReport, Conformance, Outcome, write_result

if TYPE_CHECKING:
    from kevolve_core.testing.subject import Subject, subject_of
    from kevolve_core.testing.suite import run_suite

__all__ = [
    "PROBE_SYMBOL",
    "RESULT_FILE",
    "CheckReport",
    "Conformance",
    "Expectations",
    "ExpectedFailure",
    "Outcome",
    "ProbeKernels",
    "Subject",
    "SuppliesProbes",
    "read_expectations",
    "run_suite",
    "subject_of",
    "write_result",
]

_LATE = {"Subject": "subject", "subject_of": "subject", "run_suite": "suite"}


def __getattr__(name: str) -> Any:
    """What imports torch, imported when it is first used: a backend's plugin may import this package."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
