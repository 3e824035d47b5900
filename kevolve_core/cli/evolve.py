"""`kevolve evolve` and `kevolve resume`: a run, watched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import click
from rich.console import Console

from kevolve_core.api import Result, evolve_async, resume_async
from kevolve_core.api.asking import is_request
from kevolve_core.api.memory import MODES
from kevolve_core.api.parts import as_spec, place
from kevolve_core.cli.ask import ask
from kevolve_core.cli.fail import INTERRUPTED
from kevolve_core.cli.interrupt import Interrupt, interruptible
from kevolve_core.cli.models import cap_options, capped, generator_options, model_options, prepare_process
from kevolve_core.cli.options import backend_option, device_option, err, out, plugins_option, registry_of
from kevolve_core.cli.progress import Progress, State, display, words
from kevolve_core.cli.render import say, timing_table
from kevolve_core.errors import ConfigError
from kevolve_core.evolve import Budget, Event
from kevolve_core.model import Device, VerdictKind
from kevolve_core.report import failure_counts
from kevolve_core.store import RunStore

__all__ = ["evolve", "resume"]

_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print report.json to stdout at the end; progress goes to stderr."
)


@click.command()
@click.argument("spec", metavar="SPEC")
@backend_option
@click.option(
    "--budget",
    metavar="LIMIT",
    default="60s",
    show_default=True,
    help="Of the search: 60s, 5m, 1h, 200c (candidates), or 100c,60s. Preparing and confirming come on top.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice of the search.")
@click.option("--out", "folder", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder.")
@click.option("--policy", default="evolutionary", show_default=True, help="How parents are selected.")
@click.option("--generator", default="synth", show_default=True, help="Who writes the candidates.")
@model_options
@click.option(
    "--without",
    multiple=True,
    metavar="REWRITE",
    help="A rewrite of the operator graph that synth leaves out. May be given several times.",
)
@click.option("--executor", default="local", show_default=True, help="Where evaluations run.")
@click.option(
    "--seed-kernel",
    "seed_kernels",
    multiple=True,
    metavar="PATH",
    help="Your own kernel, a file or folder: a parent and a baseline. May be given several times.",
)
@click.option(
    "--allow-degenerate", is_flag=True, help="Search a spec that accepts trivial answers, and mark it."
)
@click.option(
    "--memory",
    type=click.Choice(MODES),
    default="split",
    show_default=True,
    help="Whether proposals may use knowledge and what was learned on similar problems; split: some may.",
)
@click.option("--controls", is_flag=True, help="Then spend the same budget without search, and compare.")
@device_option
@plugins_option
@_JSON
def evolve(
    spec: str,
    backend: str | None,
    budget: str,
    seed: int,
    folder: Path | None,
    policy: str,
    generator: str,
    models: tuple[str, ...],
    provider_file: Path | None,
    language: str | None,
    siblings: int,
    pages: int,
    max_tokens: str | None,
    max_money: float | None,
    without: tuple[str, ...],
    executor: str,
    seed_kernels: tuple[str, ...],
    allow_degenerate: bool,
    memory: str,
    controls: bool,
    device: str | None,
    plugins_file: Path | None,
    as_json: bool,
) -> int:
    """Evolve a kernel for SPEC, a YAML or Python file, or plain words in quotes: "row-wise softmax in NAME".

    Ctrl-C ends the search and keeps the best so far.
    """
    limits = capped(Budget.parse(budget), max_tokens, max_money)
    registry = registry_of(plugins_file)
    asked = ask(spec, registry, backend, device) if is_request(spec) else None
    if asked is not None:
        backend, device = asked.backend or backend, asked.device or device
        language = language or asked.request.language or None
    options = generator_options(generator, models, provider_file, language, siblings, pages)
    if options:
        prepare_process()
    own = {"language": language, "without": list(without)}
    if "synth" in generator.split("+") and any(own.values()):
        options = {**options, "synth": {name: value for name, value in own.items() if value}}
    loaded = as_spec(spec if asked is None else asked.spec, seed_kernels=seed_kernels)
    where = place(loaded, backend, registry=registry, device=device)
    title = f"{loaded.name} on {_device(where.device)}, {generator}, {policy}, seed {seed}"
    state = State(title=title, evidence=where.backend.manifest.evidence, budget=limits)
    return _watched(
        state,
        as_json,
        lambda on_event, stop: evolve_async(
            loaded,
            backend=where.backend_name,
            device=where.device.id,
            registry=registry,
            budget=limits,
            seed=seed,
            policy=policy,
            generator=generator,
            generator_options=options,
            executor=executor,
            out=folder,
            allow_degenerate=allow_degenerate,
            memory=memory,
            controls=controls,
            on_event=on_event,
            stop=stop,
        ),
    )


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--budget", metavar="LIMIT", help="Replaces the run's own, counted from its beginning.")
@cap_options
@plugins_option
@_JSON
def resume(
    run: Path,
    budget: str | None,
    max_tokens: str | None,
    max_money: float | None,
    plugins_file: Path | None,
    as_json: bool,
) -> int:
    """Go on with RUN, the folder of a run that was stopped or killed."""
    registry = registry_of(plugins_file)
    with RunStore.open_readonly(run) as store:
        settings, name = store.settings, store.spec.name
    if not settings["executor"]:
        raise ConfigError(
            "this run was begun from Python with an executor of its own",
            where=str(run),
            mend="resume it there: kevolve_core.resume(run, executor=…)",
        )
    if settings.get("generator_options"):
        prepare_process()
    limits = Budget.parse(budget) if budget else Budget(**settings["budget"])
    limits = capped(limits, max_tokens, max_money)
    changed = bool(budget or max_tokens is not None or max_money is not None)
    where = place(None, settings["backend"], registry=registry, device=settings["device"])
    title = (
        f"{name} on {_device(where.device)}, {settings['generator']}, {settings['policy']}, "
        f"seed {settings['seed']}"
    )
    state = State(title=title, evidence=where.backend.manifest.evidence, budget=limits)
    return _watched(
        state,
        as_json,
        lambda on_event, stop: resume_async(
            run, budget=limits if changed else None, registry=registry, on_event=on_event, stop=stop
        ),
    )


def _watched(
    state: State,
    as_json: bool,
    start: Callable[[Callable[[Event], None], Interrupt], Awaitable[Result]],
) -> int:
    """Run, show, print the result; returns the exit code."""

    async def work(progress: Progress, interrupt: Interrupt) -> Result:
        return await start(progress.show, interrupt)

    with (
        display(state, err() if as_json else out()) as progress,
        interruptible(progress.note) as interrupt,
    ):
        result = asyncio.run(work(progress, interrupt))
    if as_json:
        click.echo(result.report.json.read_text(encoding="utf-8"), nl=False)
    else:
        print_result(out(), result)
    return INTERRUPTED if interrupt.asked and result.resumable else 0


def print_result(console: Console, result: Result) -> None:
    """The end of a run: what was found, how fast, and where it is."""
    say(console)
    say(console, f"{result.spec.name}: {result.reason}", "bold green" if result.improved else "bold")
    if result.measurements:
        say(console)
        subject = "kernel" if result.improved else "best candidate"
        console.print(timing_table(result.measurements.values(), subject))
    say(console)
    search = result.search
    rows = [("kernel", str(result.report.kernel)), ("report", str(result.report.markdown))]
    if result.evaluation is not None and result.evaluation.library_calls:
        rows.append(("library calls", ", ".join(result.evaluation.library_calls)))
    if result.evaluation is not None:
        rows += list(result.evaluation.remarks.items())
    if (at := search.best_at) is not None:
        rows.append(("until the best", f"{at.seconds:.1f} s measured, {at.evaluations} evaluations"))
    spent = f"{search.seconds:.1f} s measured, {search.evaluations} evaluations, {_failures(search.counts)}"
    rows.append(("whole run", spent))
    rows += [("your kernel", text) for text in _rejected_seeds(result)]
    if result.resumable:
        rows.append(("not finished", f"kevolve resume {result.run}"))
    for name, text in rows:
        say(console, f"{name:<15} {text}")


def _rejected_seeds(result: Result) -> list[str]:
    """The user's kernels that were not accepted: silence would look like a baseline that was beaten."""
    names = [(p.candidate_id, p.verdict) for p in result.search.trajectory[: len(result.spec.seeds)]]
    return [
        f"{name} was not accepted ({words(verdict.value)}) and is no baseline: kevolve repro {result.run}:{n}"
        for n, (name, verdict) in enumerate(names)
        if verdict is not None and verdict is not VerdictKind.ACCEPTED
    ]


def _failures(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in failure_counts(counts).items()) or "none failed"


def _device(device: Device) -> str:
    return f"{device.name} ({device.id})"
