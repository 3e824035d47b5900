"""The command tree, loaded lazily, and the one place where exceptions become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from kevolve_core.cli import fail
from kevolve_core.errors import KevolveError

__all__ = ["LazyGroup", "cli", "run"]

#: Command -> module and attribute. Only the chosen one is imported: `kevolve --help` stays instant.
_COMMANDS = {
    "evolve": "kevolve_core.cli.evolve:evolve",
    "resume": "kevolve_core.cli.evolve:resume",
    "evaluate": "kevolve_core.cli.evaluate:evaluate",
    "repro": "kevolve_core.cli.evaluate:repro",
    "replay": "kevolve_core.cli.replay:replay",
    "show": "kevolve_core.cli.runs:show",
    "compare": "kevolve_core.cli.runs:compare",
    "spec": "kevolve_core.cli.spec:spec",
    "kb": "kevolve_core.cli.kb:kb",
    "mcp": "kevolve_core.cli.mcp:mcp",
    "plugin": "kevolve_core.cli.plugin:plugin",
    "bench": "kevolve_core.cli.bench:bench",
    "plugins": "kevolve_core.cli.plugins:plugins",
    "doctor": "kevolve_core.cli.plugins:doctor",
    "conformance": "kevolve_core.cli.conformance:conformance",
}

_SHORT = {
    "evolve": "Evolve a kernel for a specification.",
    "resume": "Go on with a run that was stopped or killed.",
    "evaluate": "Compile, check and time one candidate.",
    "repro": "Run a stored evaluation again, with its own inputs.",
    "replay": "Replay a search with language models, exactly.",
    "show": "Show a run or one of its candidates.",
    "compare": "Put two runs side by side.",
    "spec": "Write and check kernel specifications.",
    "kb": "Search and extend the knowledge base.",
    "mcp": "Serve coding agents over stdin and stdout.",
    "plugin": "Write a plugin of your own.",
    "bench": "Run public benchmarks from your own checkout.",
    "plugins": "See, enable, disable and grant plugins.",
    "doctor": "Check this installation.",
    "conformance": "Check that a backend keeps the plugin contract.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are chosen."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return _plugin_command(cmd_name)
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise fail.unknown_command(args[0], _COMMANDS, ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_SHORT.items()))


def _plugin_command(name: str) -> click.Command | None:
    """A command that a plugin added; plugins are looked at only for a name that is none of ours."""
    if name.startswith("-"):
        return None
    from kevolve_core.registry import discover

    registry = discover()
    if name not in registry.names("command"):
        return None
    command = registry.command(name)
    return command if isinstance(command, click.Command) else click.command(name)(command)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="kevolve", message="kevolve %(version)s")
def cli() -> None:
    """Evolve fast, verified kernels for any accelerator.

    Every number it prints names its evidence: measured, simulated, emulated, estimated, interpreted or
    compiled.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Never raises for a mistake of the user."""
    debug = os.environ.get("KEVOLVE_DEBUG", "") not in {"", "0"}
    try:
        code: Any = cli.main(
            args=None if arguments is None else list(arguments), prog_name="kevolve", standalone_mode=False
        )
        sys.stdout.flush()
    except click.UsageError as error:
        return fail.usage(error)
    except click.ClickException as error:
        return fail.message(error.format_message())
    except KevolveError as error:
        return fail.known(error, debug=debug)
    except (KeyboardInterrupt, click.Abort):
        return fail.INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) left: silence the flush at exit and say what a killed writer says.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except Exception as error:
        return fail.internal(error, debug=debug)
    return int(code or 0)
