"""`kevolve bench`: public benchmarks, read from the user's own checkout."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from kevolve_core.cli.options import backend_option, device_option, err, out, plugins_option, registry_of
from kevolve_core.cli.render import say
from kevolve_core.errors import ConfigError

__all__ = ["bench"]

_UNSOLVED = 1
_SITTINGS = "sittings.jsonl"  # of a folder: what each sitting of a sweep did with its time


@click.group()
def bench() -> None:
    """Run public benchmarks against this installation."""


def _levels(_ctx: Any, _param: Any, value: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(n) for n in value.split(",")))
    except ValueError as error:
        raise ConfigError(
            "levels are numbers separated by commas", got=value, mend="--level 1,2,3"
        ) from error


@bench.command()
@click.option("--root", required=True, type=click.Path(path_type=Path), help="A checkout of KernelBench.")
@click.option("--level", "levels", default="1,2,3", show_default=True, callback=_levels, metavar="LIST",
              help="Levels to run, separated by commas.")  # fmt: skip
@backend_option
@click.option("--scale", default="small", show_default=True, metavar="SCALE",
              help="tiny, small or full: how far module-level sizes are halved.")  # fmt: skip
@click.option("--budget", default="20s", show_default=True, help="Of the search on each problem.")
@click.option("--check-only", is_flag=True, help="Check the first drafts; time nothing.")
@click.option(
    "--sweep",
    default=0,
    metavar="N",
    help="Time N proposals a problem, without a search and without the evaluator's fences.",
)
@click.option("--train", is_flag=True,
              help="Modules in training mode, as KernelBench's own evaluator runs them.")  # fmt: skip
@click.option("--language", default="", metavar="NAME", help="Of the candidates of --check-only and --sweep.")
@click.option("--problem", "only", multiple=True, metavar="ID", help="Only this one (1/23); may be repeated.")
@click.option("--jobs", default=0, metavar="N", help="Checking processes; one a core by default.")
@click.option("--seed", default=0, show_default=True, help="Of weights and of the search.")
@click.option("--out", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Rows and report; a folder that has rows is gone on with.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print rows and summary as JSON.")
@device_option
@plugins_option
def kernelbench(
    root: Path,
    levels: tuple[int, ...],
    backend: str | None,
    scale: str,
    budget: str,
    check_only: bool,
    sweep: int,
    train: bool,
    language: str,
    only: tuple[str, ...],
    jobs: int,
    seed: int,
    folder: Path | None,
    as_json: bool,
    device: str | None,
    plugins_file: Path | None,
) -> int:
    """KernelBench: every problem of a checkout, a row each.

    Exit code 0 when every problem that counts is solved correctly, 1 when some are not.
    """
    from kevolve_core.bench.kernelbench import ENVIRONMENT, BenchSettings, run_kernelbench
    from kevolve_core.bench.summary import markdown, sitting, summary

    if check_only and sweep:
        raise ConfigError("--check-only times nothing and --sweep does", mend="give one of them")
    settings = BenchSettings(
        root=str(root), levels=levels, scale=scale, check_only=check_only, budget=budget, language=language,
        only=only, seed=seed, backend=backend or "", sweep=sweep, train=train,
    )  # fmt: skip
    target = folder or Path("kevolve-bench") / ("check" if check_only else "sweep" if sweep else "search")
    console = err() if as_json else out()

    begun, added = time.monotonic(), list[dict[str, Any]]()

    def show(row: dict[str, Any], done: int, total: int) -> None:
        added.append(row)
        word = "generated" if row["generated_correct"] else "library" if row["correct"] else "NOT SOLVED"
        ratio = f"  {row['ratio']:.2f}×" if row.get("ratio") else ""
        why = "" if row["correct"] else f"  {' '.join(row['reason'].split())[:110]}"
        say(console, f"[{done}/{total}] {row['id']:<6} {row['name'][:44]:<44} {word}{ratio}{why}")

    rows = run_kernelbench(
        settings, target, registry=registry_of(plugins_file), device=device, jobs=jobs, on_row=show
    )
    if sweep and added:
        this = sitting(added, time.monotonic() - begun)
        line = "{problems} problems, {candidates} candidates in {seconds:.0f} s ({candidates_per_s:.2f}/s); "
        say(console, (line + "device held {held:.0%}, timing {timed:.0%}").format(**this))
        with (target / _SITTINGS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(this) + "\n")
    command = f"kevolve {shlex.join(sys.argv[1:])}" if sys.argv[1:] else "kevolve bench kernelbench"
    totals = summary(rows)
    (target / "report.md").write_text(markdown(rows, "KernelBench", command), encoding="utf-8")
    found = json.loads((target / ENVIRONMENT).read_text(encoding="utf-8"))
    sittings = (target / _SITTINGS).read_text(encoding="utf-8") if (target / _SITTINGS).exists() else ""
    report = {
        "rows": rows,
        "summary": {**totals, "command": command, "environment": found,
                    "sittings": [json.loads(line) for line in sittings.splitlines()]},
    }  # fmt: skip
    (target / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"rows": rows, "summary": totals}, indent=2))
    else:
        for name, t in totals.items():
            ratio = (
                f", geomean {t['geomean']:.3f} over the best baseline (measured)" if "geomean" in t else ""
            )
            solved = f"{t['correct']}/{t['total']} correct, {t['generated_correct']} generated"
            say(console, f"{name:<11} {solved}{ratio}")
        say(console, f"report: {target / 'report.md'}")
    return 0 if totals["all"]["correct"] == totals["all"]["total"] else _UNSOLVED
