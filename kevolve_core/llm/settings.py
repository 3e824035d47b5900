"""What a run asks models for, and how: the part of its settings that is stored with it."""

from __future__ import annotations

from attrs import field, frozen

from kevolve_core.llm.config import Mix, Providers

__all__ = ["LlmSettings"]


@frozen
class LlmSettings:
    """What a run asks models for, and how. JSON values only; stored with the run.

    Args:
        providers: how to reach them.
        mix: who takes which role.
        language: to write in; "" for the backend's first.
        siblings: earlier children of the same parents that a prompt shows at most; 0 for none.
        pages: of the knowledge base that a prompt shows at most; 0 for none.
    """

    providers: Providers = field(factory=Providers)
    mix: Mix = field(factory=lambda: Mix({}))
    language: str = ""
    siblings: int = 2
    pages: int = 3
