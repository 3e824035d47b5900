"""`kevolve plugins` and `kevolve doctor`: what is installed, what is ready, and why the rest is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from kevolve_core.cli import plugins_edit as edit
from kevolve_core.cli.options import out, plugins_option, registry_of
from kevolve_core.cli.render import grid, say
from kevolve_core.registry import PluginState, PluginStatus
from kevolve_core.report import environment
from kevolve_core.serial import to_plain

__all__ = ["doctor", "plugins"]

_NOTHING_READY = 1
_STYLES = {PluginState.READY: "green", PluginState.DISABLED: "dim"}


@click.group()
def plugins() -> None:
    """See, enable, disable and grant plugins."""


for _command in (edit.disable, edit.enable, edit.grant, edit.requirements):
    plugins.add_command(_command)


@plugins.command("list")
@plugins_option
@click.option("--json", "as_json", is_flag=True, help="Print the states as JSON.")
def list_(plugins_file: Path | None, as_json: bool) -> None:
    """Every plugin and its state, as the latest probe saw it. Imports none of them."""
    _print(registry_of(plugins_file).statuses(), as_json)


@plugins.command("doctor")
@plugins_option
@click.option("--json", "as_json", is_flag=True, help="Print the states as JSON.")
def doctor_(plugins_file: Path | None, as_json: bool) -> int:
    """Probe every plugin anew, each in a process of its own. Exit code 1 when none is ready."""
    statuses = registry_of(plugins_file).statuses(refresh=True)
    _print(statuses, as_json)
    return 0 if any(status.ready for status in statuses) else _NOTHING_READY


@click.command()
@plugins_option
def doctor(plugins_file: Path | None) -> int:
    """Check this installation: versions, plugins, devices. Exit code 1 when no backend is ready."""
    statuses = registry_of(plugins_file).statuses(refresh=True)
    console = out()
    found = environment(status.distribution for status in statuses if status.distribution)
    rows = [("python", found["python"]), ("platform", found["platform"]), *found["versions"].items()]
    console.print(grid(rows))
    say(console)
    _print(statuses, as_json=False)
    devices = [device for status in statuses for device in status.devices]
    for device in devices:
        say(console, f"\n{device.name} ({device.id})", "bold")
        facts = {"architecture": device.target.arch, "capabilities": ", ".join(sorted(device.capabilities))}
        shown = [(key, str(value)) for key, value in {**facts, **device.facts}.items()]
        console.print(grid((f"  {key}", text) for key, text in shown))
    return 0 if devices else _NOTHING_READY


def _print(statuses: Sequence[PluginStatus], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([to_plain(status) for status in statuses], indent=2))
        return
    console = out()
    if not statuses:
        say(
            console,
            "no plugin is installed; install a backend's distribution, such as kevolve-NAME",
            "yellow",
        )
        return
    for status in statuses:
        _print_status(console, status)


def _print_status(console: Console, status: PluginStatus) -> None:
    origin = " ".join(part for part in (status.distribution, status.version) if part) or status.source
    offers = ", ".join(f"{kind} {', '.join(names)}" for kind, names in status.provides.items() if names)
    say(
        console,
        f"{status.name:<16} {status.state.value:<13} {origin}",
        _STYLES.get(status.state, "yellow"),
    )
    details = {
        "offers": offers,
        "devices": ", ".join(f"{device.name} ({device.id})" for device in status.devices),
        "cause": status.cause,
        "mend": status.mend,
    }
    for name, text in details.items():
        if text:
            say(console, f"  {name:<8} {' '.join(text.split())}")
