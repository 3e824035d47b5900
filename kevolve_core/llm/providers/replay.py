"""Recorded replies instead of a model: a search again, with no network, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.journal import Journal, error_from_plain
from kevolve_core.llm.model import Reply, Request

__all__ = ["ReplayProvider"]


class ReplayProvider:
    """Answers each request with the reply that was recorded for equal content; ``config.path`` is the folder
    of the recorded run, or pass its journal. See `kevolve_core.llm.Provider`."""

    def __init__(
        self, config: ProviderConfig, *, client: Any = None, token: Any = None, journal: Journal | None = None
    ) -> None:
        del client, token
        self._where = config.path
        self._journal = journal or Journal(Path(config.path))

    async def complete(self, request: Request) -> Reply:
        call = self._journal.find(request.key)
        if call is None:
            raise ProviderError(
                "this request was not recorded",
                kind="replay",
                got=f"{request.key[:12]} ({request.provider}:{request.model}, {request.nonce})",
                where=self._where,
                mend="replay with the specification, seed and options of the recorded run",
            )
        if call.reply is None:
            raise error_from_plain(call.fault or {})
        return call.reply

    async def check(self, model: str) -> None:
        del model

    async def close(self) -> None:
        """There is no connection."""
