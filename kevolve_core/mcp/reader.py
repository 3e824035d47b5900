"""What the agent at the other end may see: everything, or everything but what is confidential."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kevolve_core.errors import KevolveError, PluginError, StoreError
from kevolve_core.knowledge.base import Folder, KnowledgeBase
from kevolve_core.knowledge.experience.distill import tainted
from kevolve_core.knowledge.folders import ready_base
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.registry import Registry
from kevolve_core.store import RunStore

__all__ = ["Reader"]

_MEND = "start the server with --allow-confidential, if this agent and its model may see it"


class Reader:
    """The policy of one server. What derives from a confidential page or backend is left out or refused: its
    diagnostics, counters, sources, skills and runs."""

    def __init__(self, registry: Registry, folders: Sequence[Path], *, allow_confidential: bool) -> None:
        self.registry = registry
        self.allow = allow_confidential
        self._folders = tuple(Folder(folder, "user") for folder in folders)
        self._base: KnowledgeBase | None = None

    @property
    def base(self) -> KnowledgeBase:
        """The pages that the agent may see. Opened once: start the server again for new pages."""
        if self._base is None:
            whole = ready_base(self.registry, self._folders)
            self._base = whole.allowed(confidential=self.allow)
        return self._base

    def hidden(self, backend: str) -> bool:
        """Nothing that comes from this backend may be shown. One that cannot say counts as confidential."""
        if self.allow:
            return False
        try:
            return self.registry.manifest(backend).confidential
        except KevolveError:
            return True

    def check_backend(self, backend: str) -> None:
        """Raise PluginError for a backend whose results may not be shown, UnknownNameError for none."""
        if backend not in self.registry.names("backend"):
            self.registry.manifest(backend)
        if self.hidden(backend):
            raise PluginError(f"backend '{backend}' is confidential", mend=_MEND)

    def check_run(self, run: RunStore) -> None:
        """Raise StoreError for a run that may not be shown."""
        if not self.allow and (
            bool(run.settings.get("confidential")) or self.hidden(str(run.settings["backend"]))
        ):
            raise StoreError(
                "this run is confidential, or its backend is not there to say that it is public",
                where=run.path.name,
                mend=_MEND,
            )

    def shown(self, run: RunStore, evaluation: Evaluation | None) -> Evaluation | None:
        """The evaluation, None where its candidate derives from something confidential."""
        if evaluation is None or not self.may_show(run.candidate(evaluation.candidate_id)):
            return None
        return evaluation

    def may_show(self, candidate: Candidate) -> bool:
        """The candidate derives from nothing confidential."""
        return self.allow or not tainted(candidate)
