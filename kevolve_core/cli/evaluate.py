"""`kevolve evaluate` and `kevolve repro`: one candidate through the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kevolve_core import api
from kevolve_core.api.evaluating import EVALUATE_STAGES
from kevolve_core.api.parts import as_candidate, as_spec
from kevolve_core.cli.options import backend_option, device_option, out, plugins_option, registry_of
from kevolve_core.cli.render import print_evaluation, print_verdict, say
from kevolve_core.errors import UnknownNameError
from kevolve_core.serial import to_plain

__all__ = ["evaluate", "repro"]

_REJECTED = 1


@click.command()
@click.argument("spec", metavar="SPEC")
@click.argument("candidate", metavar="CANDIDATE")
@backend_option
@click.option("--seed", type=int, help="Of the inputs; drawn in secret by default and disclosed afterwards.")
@click.option(
    "--stages",
    default=",".join(EVALUATE_STAGES),
    show_default=True,
    metavar="LIST",
    help="Stages to run, separated by commas.",
)
@click.option("--executor", default="local", show_default=True, help="Where it runs.")
@click.option("--allow-degenerate", is_flag=True, help="Also for a spec that accepts trivial answers.")
@device_option
@plugins_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole evaluation as JSON.")
def evaluate(
    spec: str,
    candidate: str,
    backend: str | None,
    seed: int | None,
    stages: str,
    executor: str,
    allow_degenerate: bool,
    device: str | None,
    plugins_file: Path | None,
    as_json: bool,
) -> int:
    """Compile, check and time CANDIDATE (a file or folder) for SPEC.

    Exit code 0 when it is accepted, 1 when it is not.
    """
    loaded = as_spec(spec)
    made = as_candidate(candidate, loaded)
    evaluation = api.evaluate(
        loaded,
        made,
        backend=backend,
        stages=tuple(name.strip() for name in stages.split(",") if name.strip()),
        seed=seed,
        executor=executor,
        device=device,
        registry=registry_of(plugins_file),
        allow_degenerate=allow_degenerate,
    )
    if as_json:
        click.echo(json.dumps(to_plain(evaluation), indent=2))
    else:
        console = out()
        say(console, f"{loaded.name}, candidate {made.id} ({made.language}), input seed {evaluation.seed}\n")
        print_evaluation(console, loaded, evaluation)
    return 0 if evaluation.accepted else _REJECTED


@click.command()
@click.argument("evaluation", metavar="RUN:EVALUATION")
@click.option("--executor", default="local", show_default=True, help="Where it runs.")
@plugins_option
def repro(evaluation: str, executor: str, plugins_file: Path | None) -> int:
    """Run a stored evaluation again, with the seed of its own inputs.

    RUN is a run's folder. EVALUATION is a sequence number of the search, confirm:0 or race:1 for one of the
    end, or the beginning of a candidate's id. Exit code 0 when the verdict is the same, 1 when it is not.
    """
    run, name = _split(evaluation)
    found = api.repro(run, name, executor=executor, registry=registry_of(plugins_file))
    console = out()
    say(console, f"{found.spec.name}, candidate {found.candidate.id}, input seed {found.stored.seed}\n")
    print_evaluation(console, found.spec, found.again)
    say(console)
    if found.same:
        say(console, "reproduced: the verdict is the one stored", "bold")
        return 0
    say(console, "NOT reproduced; stored was:", "bold red")
    print_verdict(console, found.stored.verdict)
    return _REJECTED


def _split(text: str) -> tuple[Path, str]:
    """The run's folder and the evaluation's name; a folder's own colons are respected."""
    parts = text.split(":")
    for cut in range(len(parts) - 1, 0, -1):
        folder = Path(":".join(parts[:cut]))
        if folder.is_dir():
            return folder, ":".join(parts[cut:])
    raise UnknownNameError(
        "this names no evaluation of a run",
        got=text,
        mend="write RUN:EVALUATION, as in kevolve-runs/rmsnorm:12 or kevolve-runs/rmsnorm:confirm:0",
    )
