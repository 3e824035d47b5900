"""What the HTTP providers share: connection, authorisation, and whether a model is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx
from attrs import evolve

from kevolve_core.errors import ProviderError, suggest
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.keys import Credentials, TokenSource
from kevolve_core.llm.model import Reply, Request
from kevolve_core.llm.wire import Fold, Wire

__all__ = ["Connection", "bearer", "bound", "number"]

#: From a key to the headers that carry it.
Authorise = Callable[[str], Mapping[str, str]]


def bearer(key: str) -> Mapping[str, str]:
    """RFC 6750."""
    return {"authorization": f"Bearer {key}"}


class Connection:
    """Requests to one server, with its keys and headers.

    Args:
        config: of the provider.
        authorise: how the server wants its key.
        client: an embedder's own.
        token: an embedder's own source of keys.
    """

    def __init__(
        self,
        config: ProviderConfig,
        authorise: Authorise,
        *,
        client: httpx.AsyncClient | None = None,
        token: TokenSource | None = None,
    ) -> None:
        self._authorise = authorise
        self._credentials = Credentials(
            where=f"provider '{config.name}'",
            key_env=config.key_env,
            key_command=config.key_command,
            token=token,
            headers=config.headers,
        )
        self._wire = Wire(config, self._credentials, client)

    async def send(self, endpoint: str, body: Mapping[str, Any], request: Request, fold: Fold) -> Reply:
        """One attempt, free of keys whatever the server echoes. A gateway that knows ``Idempotency-Key``
        answers a repeated request without paying again."""
        headers = {**await self._headers(), "idempotency-key": f"kevolve-{request.key[:40]}"}
        try:
            reply = await self._wire.send(endpoint, body, headers, fold)
        except ProviderError as error:
            if error.got is not None:  # what a fold found in the stream
                error.got = self._clean(str(error.got))
                error.args = (str(error),)
            raise
        return evolve(
            reply,
            text=self._clean(reply.text),
            model=self._clean(reply.model),
            request_id=self._clean(reply.request_id),
        )

    async def check(self, model: str) -> None:
        """Ask which models there are; servers that do not say are believed.

        Raises:
            ProviderError: the key is refused, the server cannot be reached, or it does not have the model.
        """
        document = await self._wire.get("models", await self._headers())
        listed = (document or {}).get("data")
        names = [str(m.get("id")) for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        if names and not (document or {}).get("has_more") and model not in names:
            if await self._known(model):
                return
            shown = ", ".join(sorted(names)[:8])
            near = suggest(model, names)
            raise ProviderError(
                "the server does not know the model",
                kind="model",
                got=model,
                where=self._wire.where,
                mend=near or f"it has: {shown}{', …' if len(names) > 8 else ''}",
            )

    async def _known(self, model: str) -> bool:
        """Whether the server has a model that it does not list: lists lack aliases (``…-latest``, a local
        server's name without its tag)."""
        try:
            found = await self._wire.get(f"models/{quote(model, safe='')}", await self._headers())
        except ProviderError:
            return False
        return bool(found and found.get("id"))

    async def close(self) -> None:
        await self._wire.close()

    def _clean(self, text: str) -> str:
        """Without keys, and without what no file holds: JSON may escape half a character."""
        return self._credentials.scrub(text.encode("utf-8", errors="replace").decode())

    async def _headers(self) -> dict[str, str]:
        key = await self._credentials.key()
        return {**(self._authorise(key) if key else {}), **self._credentials.headers()}


def number(value: Any) -> int:
    """A count as a server gave it; 0 for what is none."""
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 else 0


def bound(request: Request) -> tuple[int, int]:
    """Tokens in and out at most, for servers that do not count."""
    return request.input_bound, request.max_output_tokens
