"""Language models: providers, prompts, transcripts. Start at `LlmGenerator` and `kevolve_core.llm.config`."""

from kevolve_core.llm.config import Mix, ModelConfig, ModelRef, ProviderConfig, Providers
from kevolve_core.llm.configfile import read_file
from kevolve_core.llm.context import Knowledge
from kevolve_core.llm.generator import LlmGenerator
from kevolve_core.llm.journal import Call, Journal
from kevolve_core.llm.model import Message, Provider, Reply, Request
from kevolve_core.llm.plugin import provider_factory
from kevolve_core.llm.settings import LlmSettings

__all__ = [
    "Call",
    "Journal",
    "Knowledge",
    "LlmGenerator",
    "LlmSettings",
    "Message",
    "Mix",
    "ModelConfig",
    "ModelRef",
    "Provider",
    "ProviderConfig",
    "Providers",
    "Reply",
    "Request",
    "provider_factory",
    "read_file",
]
