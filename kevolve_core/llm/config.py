"""Which models a run may ask, and how: providers, models and the mix of roles, as data without secrets.

`kevolve_core.llm.configfile` reads it from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from kevolve_core.errors import ConfigError, suggest
from kevolve_core.model import freeze

__all__ = ["PRESETS", "ROLES", "Mix", "ModelConfig", "ModelRef", "ProviderConfig", "Providers"]

#: What a model can be asked for. ``mend`` repairs a malformed reply (by default: the model that gave it).
ROLES = ("draft", "repair", "improve", "port", "mend")


#: Members of a request's body that are Kevolve's own: caps are computed from them, transcripts name them.
_OWN = frozenset(
    ["model", "messages", "input", "instructions", "system", "stream", "stream_options", "store", "n",
     "best_of", "max_tokens", "max_output_tokens", "max_completion_tokens", "temperature", "api_key"]
)  # fmt: skip
_OWN_MEND = {"temperature": "set temperature beside extra", "api_key": "use key_env or key_command"}
_LIMITS = ("max_tokens", "max_output_tokens", "max_completion_tokens")


@frozen
class ModelConfig:
    """One model of a provider.

    Args:
        context_tokens: prompt and reply together.
        max_output_tokens: where a reply is cut off, reasoning included.
        price_in, price_out: money for a million tokens; None where it is not known, which a money budget
            refuses.
        temperature: None leaves the server's default.
        extra: further members of the request's body, as the server takes them. Raises ConfigError for one
            that Kevolve sets: a cap would be computed from another number than the server's.
    """

    context_tokens: int = 32_768  # the least among current open models of use for code (estimated)
    max_output_tokens: int = 8_192  # a kernel of several hundred lines and some reasoning (estimated)
    price_in: float | None = None
    price_out: float | None = None
    temperature: float | None = None
    extra: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)

    def __attrs_post_init__(self) -> None:
        for name in sorted(_OWN.intersection(self.extra)):
            mend = "set max_output_tokens beside extra" if name in _LIMITS else _OWN_MEND.get(name)
            raise ConfigError(
                "a model's extra holds what Kevolve sets itself",
                got=name,
                where="extra",
                mend=mend or "leave it out",
            )

    @property
    def priced(self) -> bool:
        return self.price_in is not None and self.price_out is not None

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Money for so many tokens; 0 where the prices are not known."""
        return ((self.price_in or 0.0) * input_tokens + (self.price_out or 0.0) * output_tokens) / 1e6


@frozen
class ProviderConfig:
    """How to reach one provider. Holds the names of secrets, never their values.

    Args:
        name: how models of it are named: ``name:model``.
        kind: the registered provider that speaks to it.
        base_url: up to and without the endpoint (``https://host/v1``).
        key_env, key_command: where the key comes from; neither: no key is sent.
        headers: further headers; ``env:VARIABLE`` for a value from the environment.
        confidential: patterns (``fnmatch``) of confidential sources it may see (``backend:NAME``,
            ``page:ID``).
        timeout_s: seconds for a whole reply.
        stall_timeout_s: seconds without a byte.
        connect_timeout_s: seconds to connect.
        attempts: for one request, the first included.
        backoff_s, backoff_max_s: first and longest pause between attempts; the server's Retry-After wins.
        concurrency: requests in flight.
        requests_per_minute, tokens_per_minute: None for no limit of ours.
        models: by name.
        path: a folder or file, for providers that have one (``mailbox``, ``replay``).
    """

    name: str
    kind: str
    base_url: str = ""
    key_env: str = ""
    key_command: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(factory=dict, converter=freeze, hash=False)
    confidential: tuple[str, ...] = ()
    timeout_s: float = 900.0
    stall_timeout_s: float = 180.0
    connect_timeout_s: float = 15.0
    attempts: int = 8
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    models: Mapping[str, ModelConfig] = field(factory=dict, converter=freeze, hash=False)
    path: str = ""

    def model(self, name: str) -> ModelConfig:
        return self.models.get(name) or ModelConfig()


#: Providers that need no file. Ports are the servers' own defaults (their documentation).
PRESETS: Mapping[str, ProviderConfig] = {
    each.name: each
    for each in (
        ProviderConfig("openai", "openai", "https://api.openai.com/v1", key_env="OPENAI_API_KEY"),
        ProviderConfig("openai-chat", "openai-chat", "https://api.openai.com/v1", key_env="OPENAI_API_KEY"),
        ProviderConfig("anthropic", "anthropic", "https://api.anthropic.com/v1", key_env="ANTHROPIC_API_KEY"),
        ProviderConfig("vllm", "openai-chat", "http://localhost:8000/v1"),
        ProviderConfig("llamacpp", "openai-chat", "http://localhost:8080/v1"),
        ProviderConfig("ollama", "openai-chat", "http://localhost:11434/v1"),
        ProviderConfig("tgi", "openai-chat", "http://localhost:8080/v1"),
        ProviderConfig("mailbox", "mailbox"),
        ProviderConfig("replay", "replay"),
    )
}


@frozen
class ModelRef:
    """``provider:model``."""

    provider: str
    model: str

    @classmethod
    def parse(cls, text: str, where: str = "--model") -> ModelRef:
        provider, colon, model = text.strip().partition(":")
        if not (provider and colon and model):
            raise ConfigError(
                "a model is named PROVIDER:MODEL",
                got=text,
                where=where,
                mend="for example openai:MODEL, anthropic:MODEL, ollama:MODEL or mailbox:FOLDER",
            )
        return cls(provider, model)

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"


@frozen
class Mix:
    """Role -> the models that may take it, in order."""

    roles: Mapping[str, tuple[ModelRef, ...]] = field(converter=freeze, hash=False)

    @classmethod
    def parse(cls, given: Iterable[str], where: str = "--model") -> Mix:
        """From ``PROVIDER:MODEL`` (every role) and ``ROLE=PROVIDER:MODEL``; several of one role share it.

        Raises:
            ConfigError: an unknown role, or a model that is not named ``PROVIDER:MODEL``.
        """
        roles: dict[str, list[ModelRef]] = {}
        for text in given:
            role, equals, model = text.partition("=")
            if not equals or ":" in role:
                role, model = "", text
            role = role.strip()
            if role and role not in ROLES:
                raise ConfigError(
                    f"there is no role '{role}' for a model",
                    got=text,
                    where=where,
                    mend=suggest(role, ROLES) or f"roles are: {', '.join(ROLES)}",
                )
            roles.setdefault(role, []).append(ModelRef.parse(model, where))
        return cls({role: tuple(dict.fromkeys(refs)) for role, refs in roles.items()})

    def models(self, role: str) -> tuple[ModelRef, ...]:
        """Who may take ``role``: those named for it, else those of every role, else those of any."""
        return self.roles.get(role) or self.roles.get("") or next(iter(self.roles.values()), ())

    @property
    def all(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys(ref for refs in self.roles.values() for ref in refs))

    def plain(self) -> list[str]:
        """The texts that `parse` reads."""
        return [f"{role}={ref}" if role else str(ref) for role, refs in self.roles.items() for ref in refs]


@frozen
class Providers:
    """All that is configured: providers by name, and the mix where the file has one."""

    providers: Mapping[str, ProviderConfig] = field(factory=dict, converter=freeze, hash=False)
    mix: Mix = field(factory=lambda: Mix({}))
    file: str = ""

    def get(self, name: str) -> ProviderConfig:
        """A provider of the file, else one that ships. Raises ConfigError for neither."""
        found = self.providers.get(name) or PRESETS.get(name)
        if found is None:
            known = sorted({*self.providers, *PRESETS})
            raise ConfigError(
                f"there is no provider '{name}'",
                got=name,
                where=self.file or "--model",
                mend=suggest(name, known)
                or f"providers are: {', '.join(known)}; or describe it in providers.toml (--provider-config)",
            )
        return found

    def of(self, ref: ModelRef) -> ProviderConfig:
        """The provider of a model. For those that read a folder or file the model's name is its path."""
        config = self.get(ref.provider)
        return evolve(config, path=config.path or ref.model) if config.kind in _WITH_PATH else config


_WITH_PATH = ("mailbox", "replay")
