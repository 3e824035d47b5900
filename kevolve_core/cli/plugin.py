"""`kevolve plugin new`: a complete backend distribution to start from."""

from __future__ import annotations

from pathlib import Path

import click

from kevolve_core.cli.options import out
from kevolve_core.cli.render import say

__all__ = ["plugin"]


@click.group()
def plugin() -> None:
    """Write a plugin of your own."""


@plugin.command("new", short_help="Write a complete backend distribution to start from.")
@click.argument("name")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where to; kevolve-NAME in the working directory by default.",
)
def new(name: str, folder: Path | None) -> None:
    """A backend distribution for a target NAME that installs and is conformant as it is.

    Everything is there (renderer, compiler, runner, profiler, probe kernels, knowledge, tests) for an
    imaginary accelerator; the places to put your own are marked REPLACE in the code.
    """
    from kevolve_core.scaffold import scaffold

    target = folder if folder is not None else Path(f"kevolve-{name}")
    written = scaffold(name, target)
    console = out()
    say(console, f"wrote {len(written)} files to {target}")
    for line in (
        f"pip install --editable {target}",
        f"kevolve conformance {name} --tier 0",
        f"kevolve evolve {target / 'scale_tanh.yaml'} --backend {name} --generator synth+{name} --budget 20c",
    ):
        say(console, f"  {line}")
    say(console, f"then read {target / 'README.md'}: what to replace, in which order")
