"""Reports: ``report.json`` for machines, ``report.md`` and a picture for people.

No number without its evidence, and no speed-up across evidence classes or devices.
"""

from kevolve_core.report.document import document
from kevolve_core.report.markdown import headline, markdown
from kevolve_core.report.numbers import Speedup, failure_counts, format_ratio, format_seconds, overall_speedup
from kevolve_core.report.record import Control, RunRecord, environment
from kevolve_core.report.write import ReportPaths, write_report

__all__ = [
    "ReportPaths",
    "Control",
    "RunRecord",
    "Speedup",
    "document",
    "environment",
    "failure_counts",
    "format_ratio",
    "format_seconds",
    "headline",
    "markdown",
    "overall_speedup",
    "write_report",
]
