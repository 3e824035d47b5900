"""Anthropic messages. Reference: https://docs.anthropic.com/en/api/messages-streaming"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from kevolve_core.llm.config import PRESETS, ProviderConfig
from kevolve_core.llm.keys import TokenSource
from kevolve_core.llm.model import Reply, Request
from kevolve_core.llm.providers.common import Connection, bearer, bound, number

__all__ = ["AnthropicProvider"]

_VERSION = "2023-06-01"  # https://docs.anthropic.com/en/api/versioning
_STOPS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class AnthropicProvider:
    """See `kevolve_core.llm.Provider`."""

    def __init__(
        self,
        config: ProviderConfig,
        *,
        client: httpx.AsyncClient | None = None,
        token: TokenSource | None = None,
    ) -> None:
        own = config.base_url == PRESETS["anthropic"].base_url

        def authorise(key: str) -> Mapping[str, str]:
            # Gateways in front of such a server commonly take a bearer token.
            return {"x-api-key": key, **({} if own else bearer(key))}

        self._connection = Connection(_versioned(config), authorise, client=client, token=token)

    async def complete(self, request: Request) -> Reply:
        return await self._connection.send("messages", _body(request), request, _Fold(request))

    async def check(self, model: str) -> None:
        await self._connection.check(model)

    async def close(self) -> None:
        await self._connection.close()


def _versioned(config: ProviderConfig) -> ProviderConfig:
    from attrs import evolve

    return evolve(config, headers={"anthropic-version": _VERSION, **config.headers})


def _body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages if m.role != "system"],
        "max_tokens": request.max_output_tokens,
        "stream": True,
    }
    system = "\n\n".join(m.content for m in request.messages if m.role == "system")
    if system:
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body | dict(request.extra)


class _Fold:
    def __init__(self, request: Request) -> None:
        self._request = request
        self._parts: list[str] = []
        self._stop = ""
        self._usage: dict[str, int] = {}
        self._model = self._id = ""
        self._ended = False
        self.size = 0

    @property
    def complete(self) -> bool:
        return self._ended or bool(self._stop)

    def event(self, data: Mapping[str, Any]) -> None:
        kind = data.get("type")
        if kind == "message_start":
            message = data.get("message") or {}
            self._model, self._id = str(message.get("model") or ""), str(message.get("id") or "")
            self._count(message.get("usage"))
        elif kind == "content_block_delta":
            delta = data.get("delta") or {}
            if delta.get("type") == "text_delta":
                self._text(str(delta.get("text", "")))
        elif kind == "message_delta":
            self._stop = str((data.get("delta") or {}).get("stop_reason") or self._stop)
            self._count(data.get("usage"))
        elif kind == "message_stop":
            self._ended = True

    def whole(self, document: Mapping[str, Any]) -> None:
        self._model, self._id = str(document.get("model") or ""), str(document.get("id") or "")
        self._count(document.get("usage"))
        for block in document.get("content") or ():
            if isinstance(block, dict) and block.get("type") == "text":
                self._text(str(block.get("text", "")))
        self._stop = str(document.get("stop_reason") or "")
        self._ended = True

    def _text(self, text: str) -> None:
        self._parts.append(text)
        self.size += len(text)

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            # Later events repeat counts in full; they do not add to earlier ones.
            known = (*_INPUT, "output_tokens")
            self._usage |= {name: number(usage[name]) for name in known if usage.get(name) is not None}

    def reply(self) -> Reply:
        counted = "output_tokens" in self._usage and bool(self._stop)
        tokens_in, tokens_out = bound(self._request)
        if any(name in self._usage for name in _INPUT):
            tokens_in = sum(self._usage.get(name, 0) for name in _INPUT)
        if counted:
            tokens_out = self._usage["output_tokens"]
        stop = _STOPS.get(self._stop, "end")
        return Reply("".join(self._parts), stop, tokens_in, tokens_out, counted, self._model, self._id)
