"""OpenAI responses. Reference: https://platform.openai.com/docs/api-reference/responses"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.keys import TokenSource
from kevolve_core.llm.model import Reply, Request
from kevolve_core.llm.providers.common import Connection, bearer, bound, number

__all__ = ["OpenAIResponsesProvider"]


class OpenAIResponsesProvider:
    """See `kevolve_core.llm.Provider`. Nothing is kept by the server (``store`` is false)."""

    def __init__(
        self,
        config: ProviderConfig,
        *,
        client: httpx.AsyncClient | None = None,
        token: TokenSource | None = None,
    ) -> None:
        self._connection = Connection(config, bearer, client=client, token=token)

    async def complete(self, request: Request) -> Reply:
        return await self._connection.send("responses", _body(request), request, _Fold(request))

    async def check(self, model: str) -> None:
        await self._connection.check(model)

    async def close(self) -> None:
        await self._connection.close()


def _body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "input": [{"role": m.role, "content": m.content} for m in request.messages if m.role != "system"],
        "max_output_tokens": request.max_output_tokens,
        "stream": True,
        "store": False,
    }
    system = "\n\n".join(m.content for m in request.messages if m.role == "system")
    if system:
        body["instructions"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body | dict(request.extra)


class _Fold:
    def __init__(self, request: Request) -> None:
        self._request = request
        self._parts: list[str] = []
        self._refusal = ""
        self._final: Mapping[str, Any] | None = None
        self.size = 0

    @property
    def complete(self) -> bool:
        return self._final is not None

    def event(self, data: Mapping[str, Any]) -> None:
        kind = data.get("type")
        if kind == "response.output_text.delta":
            self._parts.append(str(data.get("delta", "")))
            self.size += len(self._parts[-1])
        elif kind == "response.refusal.delta":
            self._refusal += str(data.get("delta", ""))
        elif kind in ("response.completed", "response.incomplete"):
            self.whole(data.get("response") or {})
        elif kind == "response.failed":
            self._failed(data.get("response") or {})

    def whole(self, document: Mapping[str, Any]) -> None:
        if document.get("status") == "failed":
            self._failed(document)
        self._final = document
        texts = [
            content
            for item in document.get("output") or ()
            if isinstance(item, dict) and item.get("type") == "message"
            for content in item.get("content") or ()
            if isinstance(content, dict)
        ]
        said = [str(c.get("text", "")) for c in texts if c.get("type") == "output_text"]
        self._parts = said or self._parts
        self._refusal = self._refusal or "".join(str(c.get("refusal", "")) for c in texts)

    def _failed(self, response: Mapping[str, Any]) -> None:
        error = response.get("error") or {}
        got = error.get("message") if isinstance(error, dict) else error
        limited = isinstance(error, dict) and error.get("code") == "rate_limit_exceeded"
        kind = "rate_limit" if limited else "server"
        raise ProviderError("the server failed while it answered", kind=kind, got=got, billed=True)

    def reply(self) -> Reply:
        final = self._final or {}
        usage = final.get("usage")
        tokens_in, tokens_out = bound(self._request)
        if isinstance(usage, dict):
            tokens_in, tokens_out = number(usage.get("input_tokens")), number(usage.get("output_tokens"))
        reason = (final.get("incomplete_details") or {}).get("reason")
        counted = isinstance(usage, dict)
        if self._refusal or reason == "content_filter":
            stop = "refusal"
        elif reason == "max_output_tokens" or (counted and tokens_out >= self._request.max_output_tokens):
            stop = "length"  # some servers call a reply that was cut off completed
        else:
            stop = "end"
        text = "".join(self._parts) or self._refusal
        model, request_id = str(final.get("model") or ""), str(final.get("id") or "")
        return Reply(text, stop, tokens_in, tokens_out, counted, model, request_id)
