"""What goes to a language model and what comes back, as frozen data. Sizes are tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import field, frozen

from kevolve_core.model import content_hash, freeze

__all__ = ["Message", "Provider", "Reply", "Request", "byte_bound"]

_TEMPLATE_TOKENS = 64  # what a chat template wraps around a message, with room to spare (estimated)


@frozen
class Message:
    """One turn; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@frozen
class Request:
    """One request, named by its content.

    Args:
        provider: the provider's configured name.
        model: the model's name, as the provider's server knows it.
        messages: in order; at most one ``system`` message, the first.
        max_output_tokens: where the reply is cut off.
        temperature: None leaves the server's default.
        extra: further members of the request's body, as the server takes them.
        nonce: tells requests of equal content apart, since each shall get a reply of its own:
            ``seed:sequence:attempt:turn``.
        taint: confidential sources that the messages derive from; not sent, and no part of the name.
    """

    provider: str
    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int
    temperature: float | None = None
    extra: Mapping[str, Any] = field(factory=dict, converter=freeze, hash=False)
    nonce: str = ""
    taint: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """The content's name: hex SHA-256."""
        return content_hash(
            {
                "provider": self.provider,
                "model": self.model,
                "messages": [[m.role, m.content] for m in self.messages],
                "max_output_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "extra": dict(self.extra),
                "nonce": self.nonce,
            }
        )

    @property
    def input_bound(self) -> int:
        """Tokens that the messages surely do not exceed, whatever the tokenizer."""
        return sum(byte_bound(m.content) + _TEMPLATE_TOKENS for m in self.messages)


def byte_bound(text: str) -> int:
    """An upper bound of the tokens of ``text``: byte-level and byte-fallback tokenizers (BPE as in GPT-2,
    Radford et al. 2019; SentencePiece with byte fallback, Kudo and Richardson 2018) spend at most one token a
    byte."""
    return len(text.encode("utf-8", errors="replace"))


@frozen
class Reply:
    """What a model answered.

    Args:
        text: of the answer; reasoning that the server marks as such is not part of it.
        stop: why it ended: ``end``, ``length`` (cut off at the limit) or ``refusal``.
        input_tokens, output_tokens: as billed, reasoning included.
        counted: the server counted them; False: they are upper bounds of ours.
        model: what the server says it ran.
        request_id: the server's name for the exchange, for its support.
    """

    text: str
    stop: str = "end"
    input_tokens: int = 0
    output_tokens: int = 0
    counted: bool = True
    model: str = ""
    request_id: str = ""


class Provider(Protocol):
    """A language model's server, or what stands in for one. Added by `Registry.add_provider`: its factory is
    called with a `ProviderConfig` and ``client=`` (an ``httpx.AsyncClient`` or None) and returns one."""

    async def complete(self, request: Request) -> Reply:
        """One attempt at an answer.

        Raises:
            ProviderError: there is none; its ``kind`` decides whether the caller asks again.
        """
        ...

    async def check(self, model: str) -> None:
        """Raise the `ProviderError` (``key``, ``model``) that every request would meet, where that can be
        known without paying."""
        ...

    async def close(self) -> None:
        """Give back connections. Called in the event loop that used them."""
        ...
