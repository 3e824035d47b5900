"""Progress over time as a picture: best speed-up so far, every accepted candidate, failures by kind."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kevolve_core.model import VerdictKind
from kevolve_core.report.numbers import format_ratio, overall_speedup
from kevolve_core.report.record import RunRecord

__all__ = ["draw_progress"]

# Okabe and Ito's palette, distinguishable with any colour vision (jfly.uni-koeln.de/color).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_FAILURES = {
    "compile_error": ("#E69F00", "s"),
    "wrong_result": ("#D55E00", "x"),
    "crash": ("#CC79A7", "v"),
    "timeout": ("#56B4E9", "D"),
    "out_of_memory": ("#F0E442", "^"),
    "rule_violation": ("#000000", "P"),
    "unsupported": ("#999999", "o"),
}


def draw_progress(record: RunRecord, path: Path) -> None:
    """Write the picture of a run to ``path`` (PNG). Uses no global matplotlib state, so threads may draw."""
    figure = Figure(figsize=(8.0, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    failures = record.failures
    if failures:
        progress, strip = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
        _draw_failures(strip, record)
        strip.set_xlabel("search time (s)")
    else:
        progress = figure.subplots()
        progress.set_xlabel("search time (s)")
    _draw_scores(progress, record)
    progress.set_title(f"{record.spec.name} on {record.device.name}", loc="left", fontsize=11)
    figure.savefig(path, format="png")


def _draw_scores(axes: Axes, record: RunRecord) -> None:
    points = sorted(  # in the order of verdicts, which need not be that of proposals
        (p.seconds, p.score)
        for p in record.result.trajectory
        if p.score is not None and p.reused_from is None and p.verdict is VerdictKind.ACCEPTED
    )
    times, scores = [at for at, _ in points], [score for _, score in points]
    best = list(accumulate(scores, max))
    evidence = record.evidence
    axes.axhline(1.0, color=_GREY, linewidth=1, linestyle="--")
    end = max(record.result.seconds, times[-1] if times else 0.0)
    if times:
        axes.plot(
            times,
            scores,
            linestyle="none",
            marker="o",
            markersize=4,
            color=_BLUE,
            alpha=0.35,
            markeredgewidth=0,
            label="accepted candidate (quick timing)",
        )
        axes.step(
            [*times, end], [*best, best[-1]], where="post", color=_BLUE, linewidth=2, label="best so far"
        )
    else:
        axes.text(0.5, 0.5, "no accepted candidate", transform=axes.transAxes, ha="center", color=_ORANGE)
    top = max([1.0, _draw_confirmed(axes, record, end), *best])
    if times:
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.set_ylim(0, top * 1.15 + 0.05)
    axes.set_xlim(0, end * 1.02 if end > 0 else 1.0)
    axes.text(
        0.995, 1.0, "fastest baseline", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
        color=_GREY, fontsize=8,
    )  # fmt: skip
    axes.set_ylabel(f"speed-up ({evidence.value})" if evidence else "speed-up")
    _tidy(axes)


def _draw_confirmed(axes: Axes, record: RunRecord, end: float) -> float:
    """The result itself, measured again in a fresh process after the search; returns its upper end."""
    if not record.result.confirmed or record.evaluation is None:
        return 0.0
    speedup = overall_speedup(record.spec, record.evaluation)
    if speedup is None:
        return 0.0
    ratio = speedup.ratio
    axes.errorbar(
        [end], [ratio.value], yerr=[[ratio.value - ratio.low], [ratio.high - ratio.value]],
        fmt="D", color=_ORANGE, markersize=5, capsize=3, clip_on=False, zorder=5,
        label=f"confirmed {format_ratio(ratio, speedup.evidence)}",
    )  # fmt: skip
    return ratio.high


def _draw_failures(axes: Axes, record: RunRecord) -> None:
    counts = record.failures
    for level, kind in enumerate(counts):
        times = [
            p.seconds
            for p in record.result.trajectory
            if p.verdict is not None and p.verdict.value == kind and p.reused_from is None
        ]
        colour, marker = _FAILURES[kind]
        axes.scatter(
            times, [level] * len(times), color=colour, marker=marker, s=18, linewidths=1
        )  # fmt: skip
    axes.set_yticks(
        range(len(counts)), [f"{k.replace('_', ' ')} ({n})" for k, n in counts.items()], fontsize=8
    )
    axes.set_ylim(len(counts) - 0.4, -0.6)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
