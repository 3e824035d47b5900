"""`kevolve spec`: specifications written and checked."""

from __future__ import annotations

from pathlib import Path

import click

from kevolve_core.api.parts import as_spec, open_executor, place
from kevolve_core.cli.ask import ask
from kevolve_core.cli.options import backend_option, device_option, out, plugins_option, registry_of
from kevolve_core.cli.render import grid, say
from kevolve_core.errors import SpecError, UnknownNameError
from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.spec import dump_spec

__all__ = ["spec"]


@click.group()
def spec() -> None:
    """Write and check kernel specifications."""


@spec.command()
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option(
    "-o", "--out", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to stdout."
)
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
def init(target: str, file: Path | None, force: bool) -> None:
    """Write a specification from a function or module and its example inputs.

    MODULE defines example_inputs() or get_inputs(), which returns the positional arguments of one call.
    """
    from kevolve_core.spec.from_function import init_spec  # imports torch

    _write(init_spec(target), file, force)


@spec.command()
@click.argument("words", nargs=-1, required=True, metavar="WORDS...")
@click.option(
    "-o", "--out", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to stdout."
)
@click.option("--force", is_flag=True, help="Replace an existing FILE.")
@plugins_option
def write(words: tuple[str, ...], file: Path | None, force: bool, plugins_file: Path | None) -> None:
    """Write the specification that WORDS ask for: bf16 row-wise softmax 4096x1024.

    A catalogue of common operators; what is missing or not understood is asked for.
    """
    asked = ask(" ".join(words), registry_of(plugins_file), None, None, place=False)
    _write(dump_spec(asked.spec), file, force)


def _write(text: str, file: Path | None, force: bool) -> None:
    if file is None:
        click.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise SpecError("the file exists already", got=str(file), mend="choose another name, or --force")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError("the file cannot be written", got=error.strerror, where=str(file)) from error
    say(out(), f"wrote {file}; look its input ranges over, then: kevolve spec check {file}")


@spec.command()
@click.argument("spec_file", metavar="SPEC")
@backend_option
@device_option
@plugins_option
@click.option("--executor", default="local", show_default=True, help="Where the reference is run.")
@click.option("--static", is_flag=True, help="Read it only: run nothing.")
def check(
    spec_file: str,
    backend: str | None,
    device: str | None,
    plugins_file: Path | None,
    executor: str,
    static: bool,
) -> None:
    """Read SPEC, run its reference, and see that its oracle refuses trivial answers."""
    loaded = as_spec(spec_file)
    console = out()
    say(console, f"{loaded.name}  {loaded.fingerprint}", "bold")
    console.print(grid((_case_row(case, loaded) for case in loaded.cases), header=("case", "role", "inputs")))
    precision = loaded.precision
    limits = f" (rtol {precision.rtol:g}, atol {precision.atol:g})" if precision.policy == "relaxed" else ""
    say(console, f"\nprecision {precision.policy}{limits}, mode {loaded.mode}")
    if static:
        say(console, "read; nothing was run", "bold")
        return
    try:
        where = place(loaded, backend, registry=registry_of(plugins_file), device=device)
    except UnknownNameError as error:
        if backend is not None:
            raise
        raise UnknownNameError(
            f"the specification reads well, but {error.what}", got=error.got, mend="--static runs nothing"
        ) from error
    opened = open_executor(executor, where, loaded, seed=0)
    try:
        opened.check_spec()
    finally:
        opened.close()
    say(
        console,
        f"ok on {where.device.name}: the reference runs and trivial answers are refused",
        "bold green",
    )


def _case_row(case: Case, loaded: KernelSpec) -> tuple[str, str, str]:
    inputs = ", ".join(
        f"{i.name}: {i.dtype}{list(i.shape)}" if i.shape is not None else f"{i.name} = {i.value}"
        for i in case.inputs
    )
    weight = f", weight {case.weight:g}" if case.weight != 1 else ""
    return case.name, f"{case.role}{weight}", inputs or f"from {loaded.reference.inputs_from}()"
