"""OpenAI chat completions, and the many servers that speak them: vLLM, llama.cpp, Ollama, TGI, gateways.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.keys import TokenSource
from kevolve_core.llm.model import Reply, Request
from kevolve_core.llm.providers.common import Connection, bearer, bound, number

__all__ = ["OpenAIChatProvider"]

_STOPS = {"length": "length", "content_filter": "refusal"}


class OpenAIChatProvider:
    """See `kevolve_core.llm.Provider`."""

    def __init__(
        self,
        config: ProviderConfig,
        *,
        client: httpx.AsyncClient | None = None,
        token: TokenSource | None = None,
    ) -> None:
        self._connection = Connection(config, bearer, client=client, token=token)
        self._limit_name = "max_tokens"
        self._counts = True

    async def complete(self, request: Request) -> Reply:
        for _ in range(3):
            try:
                return await self._connection.send(
                    "chat/completions", self._body(request), request, _Fold(request)
                )
            except ProviderError as error:
                if not self._adapted(error):
                    raise
        return await self._connection.send("chat/completions", self._body(request), request, _Fold(request))

    async def check(self, model: str) -> None:
        await self._connection.check(model)

    async def close(self) -> None:
        await self._connection.close()

    def _adapted(self, error: ProviderError) -> bool:
        """Dialects differ: newer models want ``max_completion_tokens``, older servers know no
        ``stream_options``."""
        said = str(error.got)
        if error.kind != "request":
            return False
        if self._limit_name == "max_tokens" and "max_completion_tokens" in said:
            self._limit_name = "max_completion_tokens"
            return True
        if self._counts and "stream_options" in said:
            self._counts = False
            return True
        return False

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            self._limit_name: request.max_output_tokens,
            "stream": True,
        }
        if self._counts:
            body["stream_options"] = {"include_usage": True}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        return body | dict(request.extra)


class _Fold:
    def __init__(self, request: Request) -> None:
        self._request = request
        self._parts: list[str] = []
        self._refusal = ""
        self._finish = ""
        self._usage: Mapping[str, Any] | None = None
        self._model = self._id = ""
        self.size = 0

    @property
    def complete(self) -> bool:
        return bool(self._finish)

    def event(self, data: Mapping[str, Any]) -> None:
        self._model, self._id = str(data.get("model") or self._model), str(data.get("id") or self._id)
        if isinstance(data.get("usage"), dict):
            self._usage = data["usage"]
        for choice in data.get("choices") or ():
            if isinstance(choice, dict):
                self._choice(choice, choice.get("delta") or {})

    def whole(self, document: Mapping[str, Any]) -> None:
        self.event({**document, "choices": ()})
        for choice in document.get("choices") or ():
            if isinstance(choice, dict):
                self._choice({"finish_reason": "stop", **choice}, choice.get("message") or {})

    def _choice(self, choice: Mapping[str, Any], message: Mapping[str, Any]) -> None:
        text = message.get("content")
        if isinstance(text, str):
            self._parts.append(text)
            self.size += len(text)
        self._refusal += str(message.get("refusal") or "")
        self._finish = str(choice.get("finish_reason") or self._finish)

    def reply(self) -> Reply:
        counted = self._usage is not None
        tokens_in, tokens_out = bound(self._request)
        if self._usage is not None:
            tokens_in = number(self._usage.get("prompt_tokens"))
            tokens_out = number(self._usage.get("completion_tokens"))
        stop = "refusal" if self._refusal else _STOPS.get(self._finish, "end")
        text = "".join(self._parts) or self._refusal
        return Reply(text, stop, tokens_in, tokens_out, counted, self._model, self._id)
