"""Recorded replies instead of a model: a search again, with no network, on any machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.journal import Call, Journal, error_from_plain
from kevolve_core.llm.model import Reply, Request

__all__ = ["ReplayProvider"]


class ReplayProvider:
    """Answers each request with the reply that was recorded for equal content; ``config.path`` is the folder
    of the recorded run. See `kevolve_core.llm.Provider`.

    Args:
        changed: where given, a request whose messages are not as recorded is answered by its place in the run
            (its nonce) all the same, and this hears of it.
    """

    def __init__(
        self,
        config: ProviderConfig,
        *,
        client: Any = None,
        token: Any = None,
        changed: Callable[[Request], None] | None = None,
    ) -> None:
        del client, token
        self._where = config.path
        self._journal = Journal(Path(config.path))
        self._changed = changed
        self._places: dict[tuple[str, str, str], Call] | None = None

    async def complete(self, request: Request) -> Reply:
        call = self._journal.find(request.key) or self._at_its_place(request)
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

    def _at_its_place(self, request: Request) -> Call | None:
        if self._changed is None:
            return None
        if self._places is None:
            calls = ((call.request, call) for call in self._journal.calls())
            self._places = {(r.provider, r.model, r.nonce): call for r, call in calls}
        found = self._places.get((request.provider, request.model, request.nonce))
        if found is not None:
            self._changed(request)
        return found

    async def check(self, model: str) -> None:
        del model

    async def close(self) -> None:
        """There is no connection."""
