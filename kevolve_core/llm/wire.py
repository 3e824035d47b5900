"""The one place where something leaves over HTTP: a request sent, its stream read, every fault named."""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
from httpx_sse import EventSource, SSEError

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.keys import Credentials
from kevolve_core.llm.model import Reply

__all__ = ["Fold", "Wire", "error_of"]

_LARGEST = 32 << 20  # characters of a reply; more is a server run wild (estimated)
_SHOWN = 400  # characters of a server's message that go into ours

_CONTEXT = re.compile(
    r"context[ _-]*(length|window|size)|maximum context|too many (input )?tokens|prompt is too long"
    r"|exceed_context|input is too long|must (be less|have less) than .* tokens|max_model_len",
    re.IGNORECASE,
)
_MODEL = re.compile(
    r"model_not_found|not_found_error|model[^.]{0,80}(not found|does ?n.t exist|not exist|unknown"
    r"|not supported|no access)|(unknown|invalid|no such) model",
    re.IGNORECASE,
)
_POLICY = re.compile(r"content[ _-]?(policy|filter|management)|content_policy_violation", re.IGNORECASE)
_QUOTA = re.compile(r"insufficient_quota|billing|credit balance|payment required", re.IGNORECASE)


class Fold(Protocol):
    """How one kind of server's events add up to a reply."""

    def event(self, data: Mapping[str, Any]) -> None:
        """One JSON event of the stream. May raise ProviderError."""
        ...

    def whole(self, document: Mapping[str, Any]) -> None:
        """The answer of a server that does not stream."""
        ...

    @property
    def complete(self) -> bool:
        """The server said that the reply is at its end."""
        ...

    def reply(self) -> Reply: ...

    @property
    def size(self) -> int:
        """Characters so far."""
        ...


class Wire:
    """HTTP to one provider.

    Args:
        config: of the provider.
        credentials: its keys.
        client: an embedder's own, which stays open; None makes one at the first request.
    """

    def __init__(
        self, config: ProviderConfig, credentials: Credentials, client: httpx.AsyncClient | None = None
    ) -> None:
        self._config, self._credentials = config, credentials
        self._given, self._own = client, None if client is not None else _NOT_MADE
        self.where = f"provider '{config.name}' ({config.base_url})"

    async def send(
        self, endpoint: str, body: Mapping[str, Any], headers: Mapping[str, str], fold: Fold
    ) -> Reply:
        """One attempt: post ``body`` and read the answer into ``fold``.

        Raises:
            ProviderError: of every kind but ``replay``.
        """
        sent = False
        try:
            async with asyncio.timeout(self._config.timeout_s):
                request = self._client().build_request(
                    "POST",
                    f"{self._config.base_url}/{endpoint}",
                    json=dict(body),
                    headers={"accept": "text/event-stream", **headers},
                    timeout=self._timeout(),
                )
                sent = True
                response = await self._client().send(request, stream=True)
                try:
                    await self._read(response, fold)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise self._fault(
                "timeout", f"no reply within {self._config.timeout_s:g} s", billed=sent
            ) from error
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            httpx.UnsupportedProtocol,
        ) as error:
            what = "the server cannot be reached"
            raise self._fault("connection", what, error, mend="is it running, and base_url right?") from error
        except httpx.TimeoutException as error:
            what = f"the server fell silent for {self._config.stall_timeout_s:g} s"
            raise self._fault("timeout", what, error, billed=True) from error
        except httpx.HTTPError as error:
            raise self._fault("connection", "the connection was lost", error, billed=True) from error
        if not fold.complete:
            raise self._fault("connection", "the stream ended before the reply did", billed=True)
        return fold.reply()

    async def get(self, endpoint: str, headers: Mapping[str, str]) -> Mapping[str, Any] | None:
        """A small JSON document, None where the server has none there.

        Raises:
            ProviderError: ``key``, ``connection`` and what else `send` raises.
        """
        try:
            response = await self._client().get(
                f"{self._config.base_url}/{endpoint}", headers=dict(headers), timeout=self._timeout()
            )
        except httpx.HTTPError as error:
            what = "the server cannot be reached"
            raise self._fault("connection", what, error, mend="is it running, and base_url right?") from error
        if response.status_code in (401, 403):
            raise self._refused(response.status_code, response.headers, response.text)
        try:
            found = response.json() if response.status_code == 200 else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    async def close(self) -> None:
        """Close the client made here."""
        if isinstance(self._own, httpx.AsyncClient):
            await self._own.aclose()
            self._own = _NOT_MADE

    def _client(self) -> httpx.AsyncClient:
        if self._given is not None:
            return self._given
        if not isinstance(self._own, httpx.AsyncClient):
            self._own = httpx.AsyncClient()
        return self._own

    def _timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self._config.stall_timeout_s, connect=self._config.connect_timeout_s)

    async def _read(self, response: httpx.Response, fold: Fold) -> None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code != 200:
            text = await _beginning(response)
            raise self._refused(response.status_code, response.headers, text)
        if kind == "text/event-stream":
            await self._stream(response, fold)
        elif kind.endswith("json"):
            text = (await response.aread()).decode(errors="replace")
            fold.whole(self._object(text))
        else:
            text = await _beginning(response)
            what = f"the server answered {kind or 'something'} where a model's answer was due"
            raise self._fault("protocol", what, text, billed=True, mend="is base_url right?")

    async def _stream(self, response: httpx.Response, fold: Fold) -> None:
        try:
            async for event in EventSource(response).aiter_sse():
                if not event.data or event.data.strip() == "[DONE]":
                    continue
                data = self._object(event.data)
                if isinstance(data.get("error"), (dict, str)) or event.event == "error":
                    raise self._said(data)
                fold.event(data)
                if fold.size > _LARGEST:
                    raise self._fault("protocol", "the reply does not end", billed=True)
        except SSEError as error:
            raise self._fault("protocol", "the stream is not of events", error, billed=True) from error

    def _object(self, text: str) -> Mapping[str, Any]:
        try:
            data = json.loads(text)
        except ValueError as error:
            raise self._fault("protocol", "the answer is no JSON", text, billed=True) from error
        if not isinstance(data, dict):
            raise self._fault("protocol", "the answer is no JSON object", text, billed=True)
        return data

    def _said(self, data: Mapping[str, Any]) -> ProviderError:
        """An error within a stream, after a status of 200: the status it would have had, where it says so."""
        inner = data.get("error", data)
        code = inner.get("code") if isinstance(inner, dict) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        error = self._refused(status, {}, json.dumps(data))
        error.billed = True
        return error

    def _refused(self, status: int, headers: Mapping[str, str], text: str) -> ProviderError:
        if status in (401, 403):
            self._credentials.forget()
        return error_of(status, headers, text, self.where, self._credentials.scrub)

    def _fault(
        self, kind: str, what: str, got: object = None, *, billed: bool = False, mend: str | None = None
    ) -> ProviderError:
        # Cut after it is scrubbed: half a key is too much, and no scrubbing finds it.
        shown = None if got is None else self._credentials.scrub(str(got) or type(got).__name__)[:_SHOWN]
        return ProviderError(what, kind=kind, got=shown, where=self.where, mend=mend, billed=billed)


_NOT_MADE = object()


async def _beginning(response: httpx.Response) -> str:
    """At most about 64 KiB of a body that is only shown."""
    parts: list[bytes] = []
    async for chunk in response.aiter_bytes():
        parts.append(chunk)
        if sum(map(len, parts)) > 1 << 16:
            break
    return b"".join(parts).decode(errors="replace")


def error_of(
    status: int, headers: Mapping[str, str], text: str, where: str, scrub: Callable[[str], str]
) -> ProviderError:
    """What a status other than 200 means. ``text`` is the body; ``scrub`` frees what it says of keys."""
    message, code = _message(text, scrub)
    shown = f"HTTP {status}: {message}" if message else f"HTTP {status}"
    hint = f"{code} {message}"

    def made(kind: str, what: str, mend: str | None = None) -> ProviderError:
        return ProviderError(
            what, kind=kind, got=shown, where=where, mend=mend, retry_after=_retry_after(headers)
        )

    if status == 402 or (status in (400, 403, 429) and _QUOTA.search(hint)):
        return made(
            "key", "the account may not spend any more", "look at the provider's billing, then resume"
        )
    if status in (401, 403):
        mend = "check the key that key_env or key_command gives, and its rights; then resume"
        return made("key", "the server does not accept the key", mend)
    if status == 429:
        return made("rate_limit", "the server limits the rate of requests")
    if status == 404 or (400 <= status < 500 and _MODEL.search(hint)):
        return made("model", "the server does not know the model", "check the model's name and base_url")
    if status == 413 or (400 <= status < 500 and _CONTEXT.search(hint)):
        mend = "set the model's context_tokens to what the server takes"
        return made("context", "the prompt is too long for the model", mend)
    if 400 <= status < 500 and _POLICY.search(hint):
        return made("refusal", "the provider refused the prompt")
    if status in (408, 409, 425) or status >= 500:
        return made("server", "the server failed")
    return made("request", "the server does not take the request", "see what it says; `extra` may be wrong")


def _message(text: str, scrub: Callable[[str], str]) -> tuple[str, str]:
    """The message and the codes in a server's error, or the beginning of whatever it sent. Scrubbed as it was
    sent and as it reads: JSON may write a key with escapes."""
    text = scrub(text)
    try:
        document = json.loads(text)
    except ValueError:
        plain = re.sub(r"<[^>]*>", " ", text)
        return " ".join(plain.split())[:_SHOWN], ""
    inner = document.get("error", document) if isinstance(document, dict) else document
    if not isinstance(inner, dict):
        return scrub(str(inner))[:_SHOWN], ""
    message = inner.get("message") or inner.get("detail") or json.dumps(inner)
    return scrub(str(message))[:_SHOWN], f"{inner.get('code', '')} {inner.get('type', '')}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from ``Retry-After`` (RFC 9110: seconds or a date) or ``retry-after-ms``."""
    lowered = {name.lower(): value.strip() for name, value in headers.items()}
    try:
        if "retry-after-ms" in lowered:
            return max(0.0, float(lowered["retry-after-ms"]) / 1000)
        text = lowered.get("retry-after", "")
        if not text:
            return None
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
