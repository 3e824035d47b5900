"""The providers that ship, registered as a third party's are; importable without httpx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kevolve_core.errors import UnknownNameError, suggest
from kevolve_core.llm.model import Provider
from kevolve_core.registry import Registry, hookimpl

__all__ = ["kevolve_register", "provider_factory"]


@hookimpl
def kevolve_register(registry: Registry) -> None:
    """Add the providers to ``registry``."""
    from kevolve_core.llm import providers

    registry.add_provider("openai", providers.OpenAIResponsesProvider)
    registry.add_provider("openai-chat", providers.OpenAIChatProvider)
    registry.add_provider("anthropic", providers.AnthropicProvider)
    registry.add_provider("mailbox", providers.MailboxProvider)
    registry.add_provider("replay", providers.ReplayProvider)


def provider_factory(registry: Registry) -> Callable[[str], Callable[..., Provider]]:
    """Finds factories by kind: those of ``registry`` (its plugins' and the embedder's), else those that ship.

    Raises (when called):
        UnknownNameError: there is none of that kind.
    """
    import sys

    shipped = Registry()
    shipped.register(sys.modules[__name__], name="models")

    def find(kind: str) -> Callable[..., Provider]:
        known: Any = registry.names("provider")
        if kind in known:
            return registry.provider(kind)
        if kind in shipped.names("provider"):
            return shipped.provider(kind)
        everyone = sorted({*known, *shipped.names("provider")})
        raise UnknownNameError(
            f"there is no provider of kind '{kind}'",
            got=kind,
            mend=suggest(kind, everyone) or f"kinds are: {', '.join(everyone)}",
        )

    return find
