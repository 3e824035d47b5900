"""A request in plain words at the command line: resolved, or one question."""

from __future__ import annotations

import sys

import click

from kevolve_core.api.asking import Asked, resolve_request
from kevolve_core.errors import RequestError
from kevolve_core.knowledge.folders import ready_base
from kevolve_core.registry import Registry

__all__ = ["ask"]


def ask(
    text: str, registry: Registry, backend: str | None, device: str | None, *, place: bool = True
) -> Asked:
    """What ``text`` resolves to. At a terminal the question is asked, once, and its answer added to the text;
    elsewhere it is the error. Says on stderr what was understood, sizes included."""
    base = ready_base(registry)
    try:
        asked = resolve_request(text, registry, backend=backend, device=device, base=base, place=place)
    except RequestError as question:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        click.echo(str(question), err=True)
        answer = click.prompt("answer", err=True)
        asked = resolve_request(
            f"{text} {answer}", registry, backend=backend, device=device, base=base, place=place
        )
    click.echo(f"understood: {asked.request.words()}", err=True)
    for case in asked.spec.timed_cases:
        shapes = (f"{i.name} {i.dtype}{list(i.shape)}" for i in case.inputs if i.shape is not None)
        click.echo(f"  case {case.name}: {', '.join(shapes)}", err=True)
    return asked
