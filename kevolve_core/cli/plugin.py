"""`kevolve plugin new`: a complete backend distribution to start from."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click
from packaging.utils import canonicalize_name

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
    from kevolve_core.registry.discovery import distributions_of
    from kevolve_core.scaffold import scaffold

    target = folder if folder is not None else Path(f"kevolve-{name}")
    written = scaffold(name, target)
    console = out()
    say(console, f"wrote {len(written)} files to {target}")
    if holders := distributions_of(name):
        holder = holders[0]
        text = f"note: {holder} offers a plugin '{name}' here already"
        if canonicalize_name(holder) == canonicalize_name(f"kevolve-{name}"):
            text += ", and installing this one replaces it"
        say(console, f"{text}; another name keeps both", "yellow")
    spec = quote(str(target / "scale_tanh.yaml"))
    for line in (
        f"pip install --editable {quote(str(target))}",
        f"kevolve conformance {name} --tier 0",
        f"kevolve evolve {spec} --backend {name} --generator synth+{name} --budget 20c",
    ):
        say(console, f"  {line}")
    say(console, f"then read {target / 'README.md'}: what to replace, in which order")
