"""Evaluations, results and runs as terminal text. Every number comes with its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Evaluation, Measurement, Verdict
from kevolve_core.report import format_ratio, format_seconds, overall_speedup

__all__ = ["evaluation_lines", "grid", "print_evaluation", "say", "timing_table"]

#: Keys of a verdict's detail in the order in which they explain a failure; others follow by name.
_DETAIL = (
    "case", "distribution", "layout", "output", "index", "got", "expected", "error", "bound", "signal",
    "seed", "log",
)  # fmt: skip
_LONG = 200  # characters of a detail shown on its own line


def say(console: Console, text: str = "", style: str = "") -> None:
    """One line as it is: no markup, no wrapping inside a path."""
    console.print(Text(text, style=style), soft_wrap=True)


def grid(rows: Iterable[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> Table:
    """Aligned columns without lines; the first one dim."""
    table = Table(
        box=None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0), header_style="dim"
    )
    rows = list(rows)
    columns = header or tuple("" for _ in range(max((len(row) for row in rows), default=0)))
    for index, name in enumerate(columns):
        table.add_column(name, style="dim" if index == 0 and not header else "", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def print_evaluation(console: Console, spec: KernelSpec, evaluation: Evaluation) -> None:
    """Stages, verdict with what explains it, times and speed-up of one evaluation."""
    rows = [
        ("ok" if s.outcome == "passed" else "FAILED", s.stage, f"{s.seconds:.2f} s", _stage_note(s.detail))
        for s in evaluation.stages
    ]
    console.print(grid(rows))
    say(console)
    print_verdict(console, evaluation.verdict)
    if measurements := [m for c in spec.cases if (m := evaluation.measurement(c.name)) is not None]:
        say(console)
        console.print(timing_table(measurements))
    speedup = overall_speedup(spec, evaluation)
    if speedup is not None:
        against = " and ".join(dict.fromkeys(speedup.against))
        say(console, f"\n{format_ratio(speedup.ratio, speedup.evidence)} over {against}", "bold")
    if evaluation.library_calls:
        say(console, f"library calls: {', '.join(evaluation.library_calls)}")
    for name, text in evaluation.remarks.items():
        say(console, f"{name}: {text}")
    if evaluation.profile is not None:
        profile = evaluation.profile
        say(console, f"bottleneck: {profile.bottleneck} ({profile.evidence.value})")
        for hint in profile.hints:
            say(console, f"  {hint}")


def _stage_note(detail: Mapping[str, Any]) -> str:
    shown = [
        f"{key} {value}"
        for key, value in detail.items()
        if isinstance(value, (str, int, float)) and value != ""
    ]
    text = ", ".join(shown)
    return text if len(text) <= 70 else f"{text[:69]}…"


def print_verdict(console: Console, verdict: Verdict) -> None:
    """The verdict, its reason and everything that helps to act on it."""
    if verdict.accepted:
        say(console, "accepted", "bold green")
        return
    where = f" in stage '{verdict.stage}'" if verdict.stage else ""
    say(console, f"{verdict.kind.value.replace('_', ' ')}{where}: {verdict.reason}", "bold red")
    for line in evaluation_lines(verdict):
        say(console, f"  {line}")


def evaluation_lines(verdict: Verdict) -> list[str]:
    """The verdict's detail, a line an item; long text (a compiler's log) as a block of its own."""
    keys = [key for key in _DETAIL if key in verdict.detail]
    keys += sorted(key for key in verdict.detail if key not in _DETAIL)
    lines, blocks = [], []
    width = max((len(key) for key in keys), default=0) + 1
    for key in keys:
        text = _value(verdict.detail[key])
        if "\n" in text.strip() or len(text) > _LONG:
            blocks += [f"{key}:", *(f"  {line}" for line in text.strip().splitlines())]
        else:
            lines.append(f"{key + ':':<{width}} {text.strip()}")
    return lines + blocks


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items())
    return str(value)


def timing_table(measurements: Iterable[Measurement], subject: str = "kernel") -> Table:
    """Median time of ``subject`` and baselines a case, with evidence and paired speed-up."""
    rows = []
    for m in measurements:
        evidence = m.evidence.value
        phase = "" if m.phase == "confirm" else f" ({m.phase})"
        rows.append((f"{m.case}{phase}", subject, f"{format_seconds(median(m.candidate))} {evidence}", ""))
        for name, samples in sorted(m.baselines.items(), key=lambda item: median(item[1])):
            ratio = m.ratios.get(name)
            rows.append(
                (
                    "",
                    name,
                    f"{format_seconds(median(samples))} {evidence}",
                    format_ratio(ratio, m.evidence) if ratio else "not comparable",
                )
            )
    return grid(rows, header=("case", "implementation", "median time", f"speed-up of the {subject}"))
