"""Failures in words: what was wrong, what was got, where, and what to do."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable

import click

from kevolve_core.errors import KevolveError, suggest

__all__ = ["INTERRUPTED", "internal", "known", "message", "unknown_command", "usage"]

USER_MISTAKE, INTERNAL, INTERRUPTED = 2, 70, 130  # 70 is EX_SOFTWARE of sysexits.h; 130 is 128 + SIGINT


def known(error: KevolveError, *, debug: bool = False) -> int:
    """Print a `KevolveError`, and the cause it is chained to where that says more."""
    if debug:
        traceback.print_exception(error)
    _say(str(error))
    return USER_MISTAKE


def message(text: str) -> int:
    """Print one sentence."""
    _say(text)
    return USER_MISTAKE


def internal(error: Exception, *, debug: bool = False) -> int:
    """Print an exception that nobody expected."""
    if debug:
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    lines = [f"{type(error).__name__}: {error}", f"  where: {place}"]
    lines.append(
        "  mend:  this is a fault of Kevolve or of a plugin, not yours; please report it with the output"
    )
    lines.append("         of the same command under KEVOLVE_DEBUG=1")
    _say("\n".join(lines), label="internal error")
    return INTERNAL


def usage(error: click.UsageError) -> int:
    """Print a mistake in the command line itself."""
    if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2: a group without a command
        print(error.format_message(), file=sys.stderr)
        return USER_MISTAKE
    option = getattr(error, "option_name", "")
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known_options = [
            o for p in error.ctx.command.get_params(error.ctx) for o in p.opts + p.secondary_opts
        ]
        mend = suggest(option, [o for o in known_options if o.startswith("--")])
        text = _lines(f"there is no option '{option}'", mend=mend or _help(error.ctx))
    else:
        text = _lines(_lowered(error.format_message()), mend=_help(error.ctx))
    _say(text)
    return USER_MISTAKE


def unknown_command(name: str, commands: Iterable[str], ctx: click.Context) -> KevolveError:
    """The error for a command that is not there."""
    commands = list(commands)
    return KevolveError(
        f"there is no command '{name}'",
        mend=suggest(name, commands) or f"commands are: {', '.join(commands)}",
        where=ctx.command_path,
    )


def _lines(what: str, mend: str = "") -> str:
    return f"{what}\n  mend:  {mend}" if mend else what


def _help(ctx: click.Context | None) -> str:
    return f"see `{ctx.command_path if ctx else 'kevolve'} --help`"


def _lowered(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


def _say(text: str, label: str = "error") -> None:
    """To stderr, as it is: no wrapping and no markup, so that paths and brackets survive."""
    shown = click.style(f"{label}:", fg="red", bold=True) if sys.stderr.isatty() else f"{label}:"
    print(f"{shown} {text}", file=sys.stderr, flush=True)
