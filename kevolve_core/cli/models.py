"""Options of the generator ``llm``: models, providers and what prompts show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from kevolve_core.errors import ConfigError
from kevolve_core.evolve import Budget

__all__ = ["cap_options", "capped", "generator_options", "model_options", "prepare_process"]

F = TypeVar("F", bound=Callable[..., object])

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


def cap_options(function: F) -> F:
    """``--max-tokens`` and ``--max-money``."""
    money = click.option(
        "--max-money",
        type=float,
        metavar="AMOUNT",
        help="Hard cap of the whole run, in the currency of providers.toml's prices.",
    )
    tokens = click.option(
        "--max-tokens",
        metavar="COUNT",
        help="Hard cap of the whole run, prompts and replies together: 500000, 500k, 2m.",
    )
    return tokens(money(function))


def model_options(function: F) -> F:
    """What says which models the generator ``llm`` asks."""
    options = (
        click.option(
            "--model",
            "models",
            multiple=True,
            metavar="[ROLE=]PROVIDER:MODEL",
            help="For --generator llm: who writes. Repeat it for a mix: roles are draft, repair, improve, "
            "port and mend; several models of one role share it by a bandit.",
        ),
        click.option(
            "--provider-config",
            "provider_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Providers, models, prices and mix; providers.toml of the working directory by default.",
        ),
        click.option(
            "--language", metavar="NAME", help="That models write in; the backend's first by default."
        ),
        click.option(
            "--siblings",
            type=click.IntRange(min=0),
            default=2,
            show_default=True,
            help="Earlier attempts from the same parent that a prompt shows; 0 for none.",
        ),
        click.option(
            "--pages",
            type=click.IntRange(min=0),
            default=3,
            show_default=True,
            help="Pages of the knowledge base that a prompt shows; 0 for none.",
        ),
        cap_options,
    )
    for option in reversed(options):
        function = option(function)
    return function


def generator_options(
    generator: str,
    models: tuple[str, ...],
    file: Path | None,
    language: str | None,
    siblings: int,
    pages: int,
) -> Mapping[str, Mapping[str, Any]]:
    """Options by generator's name, for `evolve_async`.

    Raises:
        ConfigError: a model or the file is not usable, or models are named and nobody asks them.
    """
    if "llm" not in generator.split("+"):
        given = [name for name, value in (("--model", models), ("--provider-config", file)) if value]
        if given:
            raise ConfigError(
                f"{given[0]} is for language models, and none writes here",
                got=f"--generator {generator}",
                mend="add --generator llm, or --generator synth+llm for both",
            )
        return {}
    from kevolve_core.llm import LlmSettings, Mix, Providers, read_file
    from kevolve_core.llm.configfile import CONFIG_FILE
    from kevolve_core.serial import to_plain

    if file is None and (here := Path.cwd() / CONFIG_FILE).is_file():
        file = here
    providers = Providers() if file is None else read_file(file)
    mix = Mix.parse(models) if models else providers.mix
    if not mix.all:
        raise ConfigError(
            "the generator 'llm' has no model",
            got=f"--generator {generator}",
            mend="name one: --model PROVIDER:MODEL (openai:…, anthropic:…, ollama:…, mailbox:FOLDER), or "
            "[mix] in providers.toml",
        )
    named = {ref.provider for ref in mix.all}
    for name in named:
        providers.get(name)
    settings = LlmSettings(
        providers=attrs.evolve(
            providers, providers={n: p for n, p in providers.providers.items() if n in named}, mix=Mix({})
        ),
        mix=mix,
        language=language or "",
        siblings=siblings,
        pages=pages,
    )
    return {"llm": to_plain(settings)}


def capped(budget: Budget, tokens: str | None, money: float | None) -> Budget:
    """``budget`` with caps. Raises ConfigError for a count that is not understood."""
    if tokens is not None:
        budget = attrs.evolve(budget, tokens=_count(tokens))
    return budget if money is None else attrs.evolve(budget, money=money)


def _count(text: str) -> int:
    number, unit = text.strip().lower(), ""
    if number[-1:] in _UNITS:
        number, unit = number[:-1], number[-1:]
    try:
        return int(float(number) * _UNITS[unit])
    except ValueError as error:
        raise ConfigError(
            "a count of tokens is not understood", got=text, where="--max-tokens", mend="500000, 500k or 2m"
        ) from error


def prepare_process() -> None:
    """Keys stand in this process's environment, which the kernel shows to every process of the same user:
    let the worker processes, which run what models wrote, not read it."""
    from kevolve_core.isolate.sandbox import hide_memory

    hide_memory()
    # Its notes about attempts made again would break into the progress display; the report counts them.
    logging.getLogger("stamina").setLevel(logging.ERROR)
