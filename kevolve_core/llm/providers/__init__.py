"""The providers that ship. Each is one small module; `kevolve_core.llm.plugin` registers them."""

from kevolve_core.llm.providers.anthropic import AnthropicProvider
from kevolve_core.llm.providers.mailbox import MailboxProvider
from kevolve_core.llm.providers.openai_chat import OpenAIChatProvider
from kevolve_core.llm.providers.openai_responses import OpenAIResponsesProvider
from kevolve_core.llm.providers.replay import ReplayProvider

__all__ = [
    "AnthropicProvider",
    "MailboxProvider",
    "OpenAIChatProvider",
    "OpenAIResponsesProvider",
    "ReplayProvider",
]
