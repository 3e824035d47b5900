"""`kevolve conformance`: does a backend keep the plugin contract?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click
from rich.console import Console

from kevolve_core.cli.options import err, out, plugins_option, registry_of
from kevolve_core.cli.render import say
from kevolve_core.testing import RESULT_FILE, CheckReport, Conformance, Outcome, write_result

__all__ = ["conformance"]

_NOT_CONFORMANT = 1
_STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "dim",
    Outcome.EXPECTED_FAILURE: "yellow",
    Outcome.UNEXPECTED_PASS: "bold red",
}


@click.command()
@click.argument("backend", metavar="NAME")
@click.option(
    "--tier",
    "tiers",
    type=click.IntRange(0, 2),
    multiple=True,
    help="0 needs no hardware, 1 is a simulator, 2 a device; may be given several times. By default those "
    "that "
    "conformance.toml claims, else 0 and the one that fits the backend.",
)
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A conformance.toml of expected failures; by default that of the working directory or the "
    "backend's.",
)
@click.option(
    "--check", "only", multiple=True, metavar="ID", help="Only this check; may be given several times."
)
@click.option("--list", "listing", is_flag=True, help="List the checks of the tiers and run none.")
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Write the result ({RESULT_FILE}) to FILE; `-` prints it.",
)
@plugins_option
def conformance(
    backend: str,
    tiers: tuple[int, ...],
    expect: Path | None,
    only: tuple[str, ...],
    listing: bool,
    file: Path | None,
    plugins_file: Path | None,
) -> int:
    """Check that backend NAME keeps the plugin contract.

    Exit code 0 when it does, 1 when it does not.
    """
    from kevolve_core.testing.subject import subject_of  # late: it imports torch
    from kevolve_core.testing.suite import check_ids, checks_of, run_suite, tiers_of

    to_stdout = file == Path("-")
    console = err() if to_stdout else out()
    check_ids(only)
    subject = subject_of(registry_of(plugins_file), backend, expect)
    try:
        wanted = tiers_of(subject, tiers)
        if listing:
            for tier in wanted:
                for check in checks_of(tier):
                    say(console, f"{tier}  {check.id:<24} {check.title}")
            return 0
        plural = "s" if len(wanted) > 1 else ""
        say(console, f"{backend}, conformance tier{plural} {', '.join(map(str, wanted))}\n")
        # What a plugin prints in this process does not get into the JSON.
        with redirect_stdout(sys.stderr) if to_stdout else nullcontext():
            result = run_suite(subject, wanted, only=only, on_check=lambda report: _print(console, report))
    finally:
        subject.close()
    _print_end(console, result)
    if to_stdout:
        click.echo(json.dumps(result.plain(), indent=2))
    elif file is not None:
        write_result(result, file)
    return 0 if result.conformant else _NOT_CONFORMANT


def _print(console: Console, report: CheckReport) -> None:
    label = report.outcome.value.replace("_", " ")
    say(console, f"{label:<16} {report.id:<24} {report.title}", _STYLES[report.outcome])
    if report.outcome is Outcome.EXPECTED_FAILURE:
        say(console, f"    {report.reason} ({report.issue})")
    elif report.outcome is not Outcome.PASSED:
        for line in report.message.splitlines():
            say(console, f"    {line}")


def _print_end(console: Console, result: Conformance) -> None:
    counts = Counter(report.outcome for report in result.checks)
    words = [f"{counts[o]} {o.value.replace('_', ' ')}" for o in Outcome if counts[o]]
    say(console)
    for name in result.stale:
        say(console, f"stale: the expected failure '{name}' is no check; remove it", "bold red")
    evidence = f", evidence: {result.evidence}" if result.evidence else ""
    device = f" on {result.device['name']} ({result.device['id']})" if result.device else ""
    verdict = "conformant" if result.conformant else "NOT conformant"
    say(
        console,
        f"{result.backend}{device} is {verdict}: {', '.join(words) or 'nothing was checked'}{evidence}",
        "bold" if result.conformant else "bold red",
    )
