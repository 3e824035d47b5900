"""`kevolve show` and `kevolve compare`: runs looked at."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from kevolve_core.api.evaluating import candidate_ids, stored_evaluation
from kevolve_core.cli.options import out
from kevolve_core.cli.render import grid, print_evaluation, say, timing_table
from kevolve_core.errors import UnknownNameError
from kevolve_core.evolve import RunResult, collect
from kevolve_core.model import Evaluation
from kevolve_core.report import Speedup, failure_counts, format_ratio, overall_speedup
from kevolve_core.store import RunStore

__all__ = ["compare", "show"]

_TOP = 10  # candidates listed


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--candidate", metavar="ID", help="One candidate: its sources and evaluation. A prefix of its id will do."
)
def show(run: Path, candidate: str | None) -> None:
    """Show RUN, a run's folder, or one of its candidates. The run may be going on."""
    console = out()
    with RunStore.open_readonly(run) as store:
        if candidate is not None:
            _show_candidate(console, store, candidate)
        else:
            _show_run(console, store)


def _show_run(console: Console, store: RunStore) -> None:
    info, result, spec = store.info(), collect(store), store.spec
    say(console, f"{spec.name}  {store.path}", "bold")
    settings = info.settings
    named = [str(settings[key]) for key in ("backend", "generator", "policy") if settings.get(key)]
    named += [f"seed {settings['seed']}"] if "seed" in settings else []
    stopped = f", search ended by {result.stopped}" if result.stopped else ""
    rows = [
        ("status", f"{info.status}{stopped}"),
        ("run with", ", ".join(named)),
        ("begun", info.created),
        ("whole run", f"{result.seconds:.1f} s measured, {result.evaluations} evaluations, "
                   f"{result.duplicates} duplicates"),
        ("failures", _failures(result)),
        ("outcome", result.reason),
    ]  # fmt: skip
    if result.best is not None and result.evaluation is not None:
        state = "confirmed" if result.confirmed else "not yet confirmed"
        rows.append(("best", f"{result.best.id}, {_speedup_text(store, result.evaluation)}, {state}"))
    for name, text in rows:
        say(console, f"{name:<10} {text}")
    if result.evaluation is not None:
        found = [result.evaluation.measurement(case.name) for case in spec.cases]
        say(console)
        console.print(timing_table(m for m in found if m is not None))
    _show_top(console, store)
    if result.resumable:
        say(console, f"\nkevolve resume {store.path} goes on with it")


def _show_top(console: Console, store: RunStore) -> None:
    leaders = store.top(_TOP)
    if not leaders:
        return
    rows = []
    for row in leaders:
        evaluation = store.evaluation(row.phase, row.sequence)
        evidence = evaluation.evidence.value if evaluation and evaluation.evidence else "unknown"
        rows.append(
            (f"{row.score:.2f}x {evidence}", row.candidate_id, str(row.sequence), f"{row.at_seconds:.1f} s")
        )
    say(console, "\nbest of the search (quick timing)")
    console.print(grid(rows, header=("speed-up", "candidate", "sequence", "judged at")))


def _show_candidate(console: Console, store: RunStore, prefix: str) -> None:
    ids = candidate_ids(store, prefix)
    if len(ids) != 1:
        raise UnknownNameError(
            "several candidates have ids that begin so" if ids else "there is no such candidate in this run",
            got=prefix,
            where=str(store.path),
            mend=f"one of {', '.join(ids)}" if ids else "see `kevolve show RUN`",
        )
    candidate = store.candidate(ids[0])
    say(console, f"{candidate.id}  {candidate.language}", "bold")
    say(console, f"made by    {candidate.origin.generator}, {candidate.origin.operator}")
    if candidate.parents:
        say(console, f"parents    {', '.join(candidate.parents)}")
    if candidate.libraries:
        say(console, f"libraries  {', '.join(candidate.libraries)}")
    for name, text in candidate.files.items():
        say(console, f"\n--- {name}", "bold")
        say(console, text.rstrip("\n"))
    say(console, "\n--- evaluation", "bold")
    try:
        found = stored_evaluation(store, candidate.id)
    except UnknownNameError:
        say(console, "none yet")
        return
    say(console, f"{found.phase}:{found.sequence}")
    print_evaluation(console, store.spec, found.evaluation)


@click.command()
@click.argument("first", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("second", metavar="RUN", type=click.Path(path_type=Path))
def compare(first: Path, second: Path) -> None:
    """Put two runs side by side. Speed-ups of other devices or evidence are shown, not compared."""
    console = out()
    with RunStore.open_readonly(first) as one, RunStore.open_readonly(second) as two:
        stores, results = (one, two), (collect(one), collect(two))
        rows = [
            ("spec", *(f"{s.spec.name} {s.spec.fingerprint}" for s in stores)),
            ("status", *(s.info().status for s in stores)),
            *(
                (key, *(str(s.settings.get(key, "")) for s in stores))
                for key in ("backend", "device", "generator", "policy", "seed")
            ),
            ("best", *(r.best.id if r.best else "the baseline" for r in results)),
            ("speed-up", *(_best_text(s, r) for s, r in zip(stores, results, strict=True))),
            ("until the best", *(_until(r) for r in results)),
            ("search", *(f"{r.seconds:.1f} s measured" for r in results)),
            ("evaluations", *(str(r.evaluations) for r in results)),
            (
                "failures",
                *(_failures(r) for r in results),
            ),
            ("tokens", *(str(r.tokens) for r in results)),
            ("cost", *(f"{r.money:.2f}" for r in results)),
        ]
        console.print(grid(rows, header=("", str(first), str(second))))
        say(console)
        say(console, _conclusion(stores, results), "bold")


def _conclusion(stores: tuple[RunStore, RunStore], results: tuple[RunResult, RunResult]) -> str:
    """Which run's kernel is faster, where that can be said."""
    one, two = stores
    if one.spec.fingerprint != two.spec.fingerprint:
        return "not comparable: the specifications differ"
    found = [_speedup(s, r) for s, r in zip(stores, results, strict=True)]
    if found[0] is None or found[1] is None:
        return "not comparable: a run has no kernel that beat the baseline"
    a, b = found[0], found[1]
    if (a.device, a.evidence) != (b.device, b.evidence):
        return "not comparable: the devices or the evidence differ"
    if a.ratio.low > b.ratio.high or b.ratio.low > a.ratio.high:
        winner = stores[0] if a.ratio.value > b.ratio.value else stores[1]
        return f"{winner.path.name} is better: the 95 % intervals ({a.evidence.value}) do not overlap"
    return f"no difference: the 95 % intervals ({a.evidence.value}) overlap"


def _speedup(store: RunStore, result: RunResult) -> Speedup | None:
    if result.best is None or result.evaluation is None:
        return None
    return overall_speedup(store.spec, result.evaluation)


def _best_text(store: RunStore, result: RunResult) -> str:
    return _speedup_text(store, result.evaluation) if result.best and result.evaluation else "none"


def _speedup_text(store: RunStore, evaluation: Evaluation) -> str:
    speedup = overall_speedup(store.spec, evaluation)
    return format_ratio(speedup.ratio, speedup.evidence) if speedup else "not timed"


def _until(result: RunResult) -> str:
    at = result.best_at
    return f"{at.seconds:.1f} s measured, {at.evaluations} evaluations" if at else "never"


def _failures(result: RunResult) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in failure_counts(result.counts).items()) or "none"
