"""A server that says the key back, in whatever way: no message, reply or file has it, or half of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kevolve_core.errors import ProviderError
from kevolve_core.llm.config import ProviderConfig
from kevolve_core.llm.journal import error_to_plain
from kevolve_core.llm.model import Message, Reply, Request
from kevolve_core.llm.providers import OpenAIChatProvider, OpenAIResponsesProvider

KEY = "sk-ab/cd/ef/0123456789"
REQUEST = Request("p", "m", (Message("user", "hi"),), 64)
CONFIG = ProviderConfig("p", "x", "http://there.example/v1", attempts=1)


def answered(made: Any, answer: Callable[[httpx.Request], httpx.Response], token: Any = lambda: KEY) -> Reply:
    async def work() -> Reply:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            reply: Reply = await made(CONFIG, client=client, token=token).complete(REQUEST)
            return reply

    return asyncio.run(work())


def fault(made: Any, answer: httpx.Response) -> str:
    with pytest.raises(ProviderError) as caught:
        answered(made, lambda _: answer)
    error = caught.value
    return f"{error} {error!r} {error.args} {json.dumps(error_to_plain(error))}"


def stream(*events: dict[str, Any]) -> httpx.Response:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


def test_a_response_that_fails_with_the_key_in_its_reason() -> None:
    failed = {"type": "response.failed", "response": {"error": {"message": f"no quota for {KEY}"}}}
    said = fault(OpenAIResponsesProvider, stream(failed))
    assert "no quota for [key]" in said
    assert KEY not in said


def test_an_error_whose_json_escapes_the_key() -> None:
    body = json.dumps({"error": {"message": f"what is {KEY}?"}}).replace("/", "\\/")
    said = fault(OpenAIChatProvider, httpx.Response(400, text=body))
    assert "what is [key]?" in said
    assert KEY not in said


@pytest.mark.parametrize("status", [200, 502])
def test_a_page_that_is_cut_within_the_key(status: int) -> None:
    said = [
        fault(
            OpenAIChatProvider,
            httpx.Response(status, headers={"content-type": "text/html"}, text="x" * lead + KEY),
        )
        for lead in range(400 - len(KEY), 400)
    ]
    assert [text for text in said if KEY[:6] in text] == []


def test_a_reply_that_echoes_the_key_in_every_member() -> None:
    choice = {"message": {"content": f"use {KEY}"}, "finish_reason": "stop"}
    document = {"id": f"x-{KEY}", "model": KEY, "choices": [choice]}
    reply = answered(OpenAIChatProvider, lambda _: httpx.Response(200, json=document))
    assert (reply.text, reply.model, reply.request_id) == ("use [key]", "[key]", "x-[key]")


def test_half_a_character_is_replaced_as_it_will_be_stored() -> None:
    text = '{"choices": [{"message": {"content": "a\\ud800b"}, "finish_reason": "stop"}]}'
    answer = httpx.Response(200, headers={"content-type": "application/json"}, text=text)
    assert answered(OpenAIChatProvider, lambda _: answer).text == "a?b"


def test_a_callable_that_fails_costs_nothing_and_is_not_quoted() -> None:
    def token() -> str:
        raise RuntimeError(f"the vault refused {KEY}")

    with pytest.raises(ProviderError, match="the callable that gives the key failed") as caught:
        answered(OpenAIChatProvider, lambda _: httpx.Response(200), token)
    assert (caught.value.kind, caught.value.billed) == ("key", False)
    assert KEY not in str(caught.value)


def test_an_alias_that_the_list_lacks_is_asked_for_by_name() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "coder:latest"}]})
        known = request.url.path.endswith("/models/coder")
        return httpx.Response(200, json={"id": "coder"}) if known else httpx.Response(404)

    async def check(model: str) -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            await OpenAIChatProvider(CONFIG, client=client).check(model)

    asyncio.run(check("coder"))
    with pytest.raises(ProviderError, match="does not know the model"):
        asyncio.run(check("codex"))
