"""Counts, fast_p and geometric means of a benchmark's rows, and its report in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["FAST_P", "markdown", "sitting", "summary"]

#: Thresholds of fast_p: the share of problems solved correctly and more than p times as fast as the baseline
#: (KernelBench, arXiv 2502.10517).
FAST_P = (0.0, 0.8, 1.0, 1.2, 1.5, 2.0)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Totals over ``rows`` and a level each. Degenerate problems count apart, in no rate and no geomean; a
    delivered baseline is no solution and counts apart as well."""
    counted = [r for r in rows if not r.get("degenerate")]
    levels = sorted({r["id"].split("/")[0] for r in rows})
    return {
        "all": _totals(counted),
        **{f"level{n}": _totals([r for r in counted if r["id"].split("/")[0] == n]) for n in levels},
        "degenerate": _totals([r for r in rows if r.get("degenerate")]),
    }


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "total": len(rows),
        "correct": sum(bool(r.get("correct")) for r in rows),
        "generated_correct": sum(bool(r.get("generated_correct")) for r in rows),
    }
    if wrong := sum(bool(r.get("wrong_drafts")) for r in rows):
        found["wrong_first_draft"] = wrong
    captures = [r["first_proposal_s"] for r in rows if "first_proposal_s" in r]
    if captures:
        found["slowest_first_proposal_s"] = max(captures)
    for name in ("tried", "device_s", "timed_s"):  # of a sweep: candidates, and seconds with the device
        if values := [r[name] for r in rows if name in r]:
            found[name] = round(sum(values), 3)
    timed = [r for r in rows if r.get("ratio")]
    if timed:
        found["timed"] = len(timed)
        found["baseline_delivered"] = sum(r.get("delivered") == "baseline" for r in rows)
        found["geomean"] = _geomean([r["ratio"] for r in timed])
        delivered = [r["ratio"] if r.get("delivered") == "candidate" else 1.0 for r in timed]
        found["geomean_delivered"] = _geomean(delivered)
        for name in sorted({n for r in timed for n in r.get("ratio_to", {})}):
            values = [r["ratio_to"][name] for r in timed if name in r.get("ratio_to", {})]
            found[f"geomean_to_{name}"] = _geomean(values)
        found["worst"] = min(r["ratio"] for r in timed)
        found["fast_p"] = {
            str(p): sum(bool(r.get("correct")) and r["ratio"] > p for r in timed) / len(rows) for p in FAST_P
        }
    return found


def sitting(rows: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """What one sitting of a sweep did with its time: ``rows`` are those it added in ``seconds``. ``held`` is
    the share in which some problem had the device for itself, ``timed`` that in which it ran timed calls."""
    tried = sum(r.get("tried", 0) for r in rows)
    return {
        "problems": len(rows),
        "candidates": tried,
        "seconds": round(seconds, 1),
        "candidates_per_s": round(tried / seconds, 3),
        "held": round(sum(r.get("device_s", 0.0) for r in rows) / seconds, 3),
        "timed": round(sum(r.get("timed_s", 0.0) for r in rows) / seconds, 3),
    }


def _geomean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


def markdown(rows: Sequence[Mapping[str, Any]], title: str, command: str) -> str:
    """The report: totals, what failed and why, what calls the library, and a row a problem."""
    lines = [f"# {title}", "", f"Made by `{command}`.", "", "## Totals", ""]
    totals = summary(rows)
    keys = list(dict.fromkeys(k for t in totals.values() for k in t if k != "fast_p"))
    lines += [f"| | {' | '.join(keys)} |", f"|---|{'---|' * len(keys)}"]
    lines += [f"| {name} | {' | '.join(_cell(t.get(k)) for k in keys)} |" for name, t in totals.items()]
    fast = {name: t["fast_p"] for name, t in totals.items() if "fast_p" in t}
    if fast:
        lines += [
            "",
            "fast_p: share of all problems that are correct and more than p times as fast as the best",
        ]
        lines += ["baseline (measured).", "", f"| | {' | '.join(f'p = {p:g}' for p in FAST_P)} |"]
        lines += [f"|---|{'---|' * len(FAST_P)}"]
        lines += [f"| {n} | {' | '.join(f'{f[str(p)]:.2f}' for p in FAST_P)} |" for n, f in fast.items()]
    wrong = [r for r in rows if not r.get("correct")]
    if wrong:
        lines += ["", "## Not solved", ""]
        lines += [f"- {r['id']} {r['name']}: {_one_line(r.get('reason', ''))}" for r in wrong]
    library = [r for r in rows if r.get("correct") and not r.get("generated_correct")]
    if library:
        lines += ["", "## Solved with other library calls than products and convolutions", ""]
        lines += [f"- {r['id']} {r['name']}: {', '.join(r.get('libraries', ()))}" for r in library]
    heads = (
        "id",
        "name",
        "correct",
        "generated",
        "library calls",
        "ratio",
        "capture s",
        "first proposal s",
        "apart",
    )
    lines += ["", "## Problems", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for r in rows:
        cells = [
            r["id"], r["name"], _cell(r.get("correct")), _cell(r.get("generated_correct")),
            ", ".join(r.get("libraries", ())), _cell(r.get("ratio")), _cell(r.get("capture_s")),
            _cell(r.get("first_proposal_s")), r.get("degenerate", ""),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
