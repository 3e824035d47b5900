"""`kevolve plugins enable|disable|grant|requirements`: what changes or reads ``plugins.toml`` and nothing
else."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kevolve_core.cli.options import plugins_option, registry_of
from kevolve_core.errors import ConfigError, UnknownNameError, suggest
from kevolve_core.registry import Registry
from kevolve_core.registry.config import read_plugins_file
from kevolve_core.registry.discovery import PLUGINS_FILE

__all__ = ["disable", "enable", "grant", "requirements"]


@click.command()
@click.argument("name")
@plugins_option
def disable(name: str, plugins_file: Path | None) -> None:
    """Keep a plugin from loading. Imports none.

    Sets `enabled = false` in plugins.toml, with its comments kept; makes the file where there is none.
    """
    _switch(name, plugins_file, enabled=False)


@click.command()
@click.argument("name")
@plugins_option
def enable(name: str, plugins_file: Path | None) -> None:
    """Let a plugin load. Imports none.

    Sets `enabled = true` in plugins.toml, with its comments kept; makes the file where there is none.
    """
    _switch(name, plugins_file, enabled=True)
    allowed = [each.strip() for each in os.environ.get("KEVOLVE_PLUGINS", "").split(",") if each.strip()]
    if allowed and name not in allowed:
        click.echo(
            f"KEVOLVE_PLUGINS does not name it ({', '.join(allowed)}): it stays disabled until it does"
        )


@click.command()
@click.argument("name")
@plugins_option
@click.option("--dry-run", is_flag=True, help="Say what would be granted and change nothing.")
def grant(name: str, plugins_file: Path | None, dry_run: bool) -> None:
    """Grant a plugin all that it says it needs beyond the sandbox.

    Writes `[plugins.NAME.grants]` in plugins.toml, with its comments kept. Workers that run candidates then
    get what phase `run` needs of it: network, paths, environment, devices, queue.
    """
    from kevolve_core.registry.edit import grant as granted

    registry, file = _known(name, plugins_file)
    needs = registry.lacking(name)
    if not needs:
        click.echo(f"plugin '{name}' needs nothing that it is not granted")
        return
    if dry_run:
        click.echo(f"plugin '{name}' needs, and is not granted: {needs.words()}")
        return
    granted(file, name, needs)
    click.echo(f"granted plugin '{name}' in {file}: {needs.words()}")


@click.command()
@plugins_option
def requirements(plugins_file: Path | None) -> None:
    """Print what plugins.toml lists as a requirements file for pip or uv.

    kevolve plugins requirements | pip install -r /dev/stdin
    """
    from kevolve_core.registry.requirements import requirements as lines

    file = _file(plugins_file)
    if not file.is_file():
        raise ConfigError(
            "there is no plugins file to read",
            got=str(file),
            mend="write a plugins.toml, or name one with --plugins FILE",
        )
    listed = lines(read_plugins_file(file))  # first: of a file that is not valid nothing is printed
    click.echo(f"# what {file} lists, by `kevolve plugins requirements`")
    for line in listed:
        click.echo(line)


def _switch(name: str, plugins_file: Path | None, *, enabled: bool) -> None:
    from kevolve_core.registry.edit import switch

    _, file = _known(name, plugins_file)
    word = "enabled" if enabled else "disabled"
    changed = switch(file, name, enabled=enabled)
    click.echo(
        f"{word} plugin '{name}' in {file}" if changed else f"plugin '{name}' is {word} in {file} already"
    )


def _file(plugins_file: Path | None) -> Path:
    return plugins_file if plugins_file is not None else Path.cwd() / PLUGINS_FILE


def _known(name: str, plugins_file: Path | None) -> tuple[Registry, Path]:
    """The registry, and the file to change. Raises for a name that is neither installed nor listed."""
    file = _file(plugins_file)
    if plugins_file is not None and not file.exists() and not file.parent.is_dir():
        raise ConfigError(
            "there is no folder for that plugins file", got=str(file), mend="make it, or correct --plugins"
        )
    registry = registry_of(plugins_file if file.exists() else None)
    names = registry.plugins()
    if name not in names:
        raise UnknownNameError(
            f"there is no plugin '{name}'",
            got=name,
            where=f"plugins are: {', '.join(names) or 'none'}",
            mend=suggest(name, names) or "install its distribution, or add it to plugins.toml by hand",
        )
    return registry, file
