"""Reading ``providers.toml``: which models there are and how they are reached.

A file ``providers.toml`` (``--provider-config FILE``) has

    [providers.gateway]                      # a name of the user's own, or of a provider that ships
    kind = "openai-chat"                     # a registered provider; by default the name itself
    base_url = "https://models.example.com/v1"
    key_env = "GATEWAY_KEY"                  # or key_command = ["pass", "show", "gateway"]
    headers = {X-Team = "kernels", X-Gateway-Token = "env:GATEWAY_TOKEN"}
    confidential = ["page:*"]                # confidential sources it may see; true: all, false: none
    timeout_s = 600                          # of a whole reply; stall_timeout_s of a silence within it
    attempts = 8
    concurrency = 4
    requests_per_minute = 60
    tokens_per_minute = 200000

    [providers.gateway.models."big-model"]   # every key is optional
    context_tokens = 131072
    max_output_tokens = 16384
    price_in = 1.25                          # a million tokens, in the currency of the money budget
    price_out = 10.0
    temperature = 0.8
    extra = {reasoning = {effort = "high"}}  # into the request's body, as the server takes it

    [mix]                                    # role -> models; several share a role by a bandit
    draft = ["gateway:big-model"]
    repair = ["ollama:qwen2.5-coder"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, fields_dict

from kevolve_core.errors import ConfigError, suggest
from kevolve_core.llm.config import PRESETS, Mix, ModelConfig, ProviderConfig, Providers
from kevolve_core.llm.keys import looks_secret

__all__ = ["CONFIG_FILE", "from_document", "read_file"]

CONFIG_FILE = "providers.toml"


def read_file(file: Path) -> Providers:
    """Read a ``providers.toml``.

    Raises:
        ConfigError: it cannot be read, or has an unknown key or a bad value; names the key.
    """
    try:
        text = file.read_bytes().decode()
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            "the file of providers cannot be read", got=error.strerror, where=str(file)
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the file of providers is not TOML", got=error, where=str(file)) from error
    return from_document(document, str(file))


def from_document(document: Mapping[str, Any], where: str) -> Providers:
    """`read_file` of a parsed document; also what an embedder may pass."""
    _known(document, ("providers", "mix"), where, "")
    tables = _checked(document.get("providers", {}), dict, where, "providers")
    providers = {name: _provider(name, table, where) for name, table in tables.items()}
    roles = _checked(document.get("mix", {}), dict, where, "mix")
    texts: list[str] = []
    for role, given in roles.items():
        place = f"mix.{role}"
        models = [given] if isinstance(given, str) else _checked(given, list, where, place)
        prefix = "" if role == "any" else f"{role}="
        texts += [prefix + str(_checked(each, str, where, place)) for each in models]
    return Providers(providers, Mix.parse(texts, f"{where}:mix"), where)


def _provider(name: str, table: Any, file: str) -> ProviderConfig:
    key = f"providers.{name}"
    table = dict(_checked(table, dict, file, key))
    where = f"{file}:{key}"
    if ":" in name or "=" in name:
        raise ConfigError("a provider's name has no ':' or '='", got=name, where=where)
    _known(table, [f for f in fields_dict(ProviderConfig) if f != "name"], file, key)
    base = PRESETS.get(str(table.get("kind", name))) or PRESETS.get(name)
    kind = str(table.pop("kind", base.kind if base else name))
    if "models" in table:
        models = _checked(table["models"], dict, file, f"{key}.models")
        table["models"] = {m: _model(t, file, f'{key}.models."{m}"') for m, t in models.items()}
    if "confidential" in table:
        given = table["confidential"]
        table["confidential"] = ("*",) if given is True else () if given is False else given
    values = _values(table, file, key)
    for header, value in values.get("headers", {}).items():
        _checked(value, str, file, f"{key}.headers.{header}")
        if looks_secret(header) and not value.startswith("env:"):
            raise ConfigError(
                f"the value of header '{header}' would be a secret in a file",
                where=f"{where}.headers",
                mend=f'name a variable that holds it: {header} = "env:VARIABLE"',
            )
    own_key = "key_env" in table or "key_command" in table
    made = evolve(base, name=name, kind=kind) if base else ProviderConfig(name, kind)
    if "base_url" in values and values["base_url"].rstrip("/") != made.base_url and not own_key:
        made = evolve(made, key_env="")  # a key goes only where its owner said
    if "key_command" in values:
        made = evolve(made, key_env="")
    made = evolve(made, **values)
    _check_url(made.base_url, where)
    return made


def _check_url(url: str, where: str) -> None:
    import httpx

    if not url:
        return
    try:
        parsed = httpx.URL(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        usable = False
    if not usable:
        raise ConfigError("base_url is not a URL", got=url, where=where, mend="https://host/v1")
    if parsed.userinfo or parsed.query:
        raise ConfigError(
            "base_url carries a user, a password or a query",
            where=f"{where}.base_url",
            mend="give keys by key_env, key_command or a header from a variable",
        )


def _model(table: Any, file: str, key: str) -> ModelConfig:
    table = dict(_checked(table, dict, file, key))
    _known(table, list(fields_dict(ModelConfig)), file, key)
    try:
        made = ModelConfig(**_values(table, file, key))
    except ConfigError as error:
        raise ConfigError(
            error.what, got=error.got, where=error.where if error.where != "extra" else f"{file}:{key}.extra",
            mend=error.mend,
        ) from error  # fmt: skip
    if made.context_tokens <= made.max_output_tokens:
        raise ConfigError(
            "a model's context must hold more than its reply",
            got=f"context_tokens {made.context_tokens}, max_output_tokens {made.max_output_tokens}",
            where=f"{file}:{key}",
            mend="lower max_output_tokens, or raise context_tokens to what the server takes",
        )
    return made


def _amount(value: Any, where: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf"):
        raise ConfigError("not a usable amount", got=value, where=where, mend="give a number of 0 or more")
    return float(value)


def _positive(value: Any, where: str) -> float:
    amount = _amount(value, where)
    if not amount:
        raise ConfigError("not a usable amount", got=value, where=where, mend="give a number above 0")
    return amount


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            "not a usable number", got=value, where=where, mend="give a whole number of 1 or more"
        )
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError("not a text", got=value, where=where, mend="give a string in quotes")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ConfigError("not a list of texts", got=value, where=where, mend='give ["one", "two"]')
    return tuple(_text(each, where) for each in value)


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    return () if value in ((), []) else _texts(value, where)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError("not a table", got=value, where=where, mend="give {key = value}")
    return value


_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "base_url": lambda v, w: _text(v, w).rstrip("/"), "key_env": _text, "key_command": _texts,
    "headers": _mapping, "confidential": _patterns, "timeout_s": _positive, "stall_timeout_s": _positive,
    "connect_timeout_s": _positive, "attempts": _whole, "backoff_s": _amount, "backoff_max_s": _amount,
    "concurrency": _whole, "requests_per_minute": _positive, "tokens_per_minute": _positive,
    "models": _mapping, "path": _text, "context_tokens": _whole, "max_output_tokens": _whole,
    "price_in": _amount, "price_out": _amount, "temperature": _amount, "extra": _mapping,
}  # fmt: skip


def _values(table: Mapping[str, Any], file: str, key: str) -> dict[str, Any]:
    return {name: _CHECKS[name](value, f"{file}:{key}.{name}") for name, value in table.items()}


def _known(table: Mapping[str, Any], known: Sequence[str], file: str, key: str) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(
                f"unknown key '{name}'",
                got=name,
                where=f"{file}:{key}.{name}" if key else f"{file}:{name}",
                mend=suggest(name, known) or f"keys are: {', '.join(known)}",
            )


def _checked(value: Any, kind: type, file: str, key: str) -> Any:
    if isinstance(value, kind):
        return value
    names: dict[type, str] = {dict: "a table", list: "a list", str: "a string"}
    raise ConfigError(f"'{key}' must be {names[kind]}", got=repr(value), where=file)
