"""What several commands share: consoles, the registry and common options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console

from kevolve_core.registry import Registry, discover

__all__ = ["ANY", "backend_option", "device_option", "err", "out", "plugins_option", "registry_of"]

F = TypeVar("F", bound=Callable[..., object])

#: What `--backend` without a value means: the only one that is ready.
ANY = "?"


def out() -> Console:
    """Results. Made anew each time, so that it follows a redirected stdout."""
    return Console(file=sys.stdout, highlight=False, emoji=False, markup=False)


def err() -> Console:
    """Progress where stdout carries JSON."""
    return Console(file=sys.stderr, highlight=False, emoji=False, markup=False)


def backend_option(function: F) -> F:
    """``--backend NAME``; without a value or left out: the only one that is ready."""
    return click.option(
        "--backend",
        metavar="[NAME]",
        is_flag=False,
        flag_value=ANY,
        default=ANY,
        show_default=False,
        callback=lambda _ctx, _param, value: None if value == ANY else value,
        help="Where kernels run; left out, the only backend that is ready.",
    )(function)


def device_option(function: F) -> F:
    """``--device ID``."""
    return click.option("--device", metavar="ID", help="A device of the backend; its first by default.")(
        function
    )


def plugins_option(function: F) -> F:
    """``--plugins FILE``."""
    return click.option(
        "--plugins",
        "plugins_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A plugins.toml; that of the working directory by default.",
    )(function)


def registry_of(plugins_file: Path | None) -> Registry:
    """The registry of installed plugins, as the file allows."""
    from kevolve_core.knowledge.folders import with_user_folders

    return with_user_folders(discover(plugins_file))
