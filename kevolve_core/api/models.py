"""The generator ``llm`` of a run: its models from options, its pages from the knowledge base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kevolve_core.errors import ConfigError
from kevolve_core.interfaces import Proposal
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.llm import Knowledge, LlmGenerator, LlmSettings, provider_factory
from kevolve_core.model import Device, Evaluation
from kevolve_core.serial import from_plain

if TYPE_CHECKING:
    from kevolve_core.api.parts import Place

__all__ = ["llm_generator"]


def llm_generator(where: Place, spec: KernelSpec, options: Mapping[str, Any]) -> LlmGenerator:
    """The generator with the providers of ``where``'s registry; ``options`` are `LlmSettings` as JSON values.

    Raises:
        ConfigError: the options are not those of `LlmSettings`, or name no model.
    """
    try:
        settings = from_plain(LlmSettings, dict(options))
    except Exception as error:  # cattrs raises groups
        raise ConfigError(
            "the options of generator 'llm' are not usable",
            got=sorted(options),
            where="generator_options['llm']",
            mend="make them with kevolve_core.serial.to_plain(LlmSettings(…))",
        ) from error
    manifest = where.backend.manifest
    return LlmGenerator(
        spec,
        where.device,
        manifest.languages,
        settings,
        provider_factory(where.registry),
        confidential=where.backend_name if manifest.confidential else "",
        knowledge=_Pages(where, spec) if settings.pages else None,
    )


class _Pages:
    """Pages for a proposal, by the diagnosis of its first parent. The base is opened when it is first
    asked."""

    def __init__(self, where: Place, spec: KernelSpec) -> None:
        self._where, self._spec = where, spec
        self._base: Any = None

    def check(self) -> None:
        """Read the pages. Raises KnowledgeError for one that is not usable."""
        self._opened()

    def __call__(
        self, context: Proposal, device: Device, language: str, evaluation: Evaluation | None, count: int
    ) -> Sequence[Knowledge]:
        from kevolve_core.knowledge import question

        del context
        query = question(self._spec, device, language=language, evaluation=evaluation)
        return [
            Knowledge(hit.page.title, hit.page.body, hit.score, hit.page.taint)
            for hit in self._opened().retrieve(query, count)
        ]

    def _opened(self) -> Any:
        from kevolve_core.knowledge import base_for

        if self._base is None:
            self._base = base_for(self._where.registry, [self._where.backend_name])
        return self._base
