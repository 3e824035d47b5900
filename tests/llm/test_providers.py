"""Each provider against a server that behaves, and against one that does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from attrs import evolve
from scripted import ScriptedServer

from kevolve_core.errors import ProviderError
from kevolve_core.llm import Message, ProviderConfig, Reply, Request
from kevolve_core.llm.providers import AnthropicProvider, OpenAIChatProvider, OpenAIResponsesProvider

PROVIDERS: dict[str, Callable[..., Any]] = {
    "openai-chat": OpenAIChatProvider,
    "openai": OpenAIResponsesProvider,
    "anthropic": AnthropicProvider,
}
KEY = "sk-canary-0123456789abcdef"
REQUEST = Request("p", "m", (Message("system", "be brief"), Message("user", "say hello")), 64, nonce="0:0:0")

each_provider = pytest.mark.parametrize("kind", PROVIDERS)


def config(server: ScriptedServer, kind: str, **changes: Any) -> ProviderConfig:
    made = ProviderConfig("p", kind, server.url, stall_timeout_s=0.3, connect_timeout_s=2.0, timeout_s=5.0)
    return evolve(made, **changes)


def ask(server: ScriptedServer, kind: str, request: Request = REQUEST, **changes: Any) -> Reply:
    async def work() -> Reply:
        provider = PROVIDERS[kind](config(server, kind, **changes))
        try:
            reply: Reply = await provider.complete(request)
            return reply
        finally:
            await provider.close()

    return asyncio.run(work())


def fault(server: ScriptedServer, kind: str, act: str, **changes: Any) -> ProviderError:
    server.script = [act]
    with pytest.raises(ProviderError) as caught:
        ask(server, kind, **changes)
    return caught.value


@each_provider
def test_a_streamed_reply_is_put_together(server: ScriptedServer, kind: str) -> None:
    server.answer = lambda _: "hello, wörld"
    reply = ask(server, kind)
    assert (reply.text, reply.stop, reply.counted, reply.model) == ("hello, wörld", "end", True, "m-2026")
    assert reply.input_tokens + reply.output_tokens == server.billed


@each_provider
def test_a_reply_that_is_not_streamed_is_read_too(server: ScriptedServer, kind: str) -> None:
    server.script = ["plain"]
    reply = ask(server, kind)
    assert (reply.text, reply.stop, reply.input_tokens + reply.output_tokens) == (
        "hello",
        "end",
        server.billed,
    )


@each_provider
def test_a_reply_cut_off_at_its_limit_says_so(server: ScriptedServer, kind: str) -> None:
    server.stop = "length"
    assert ask(server, kind).stop == "length"


@each_provider
def test_a_refusal_is_no_answer(server: ScriptedServer, kind: str) -> None:
    server.stop = "refusal"
    assert ask(server, kind).stop == "refusal"


def test_without_a_count_the_upper_bound_is_booked(server: ScriptedServer) -> None:
    server.usage = False
    reply = ask(server, "openai-chat")
    assert (reply.counted, reply.input_tokens, reply.output_tokens) == (False, REQUEST.input_bound, 64)


@each_provider
@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("drop", ("connection", True)),
        ("drop_within", ("connection", True)),
        ("cut", ("connection", True)),
        ("stall", ("timeout", True)),
        ("stall_within", ("timeout", True)),
        ("html", ("protocol", True)),
        ("garbage", ("protocol", True)),
        ("html_502", ("server", True)),
        ("failed", ("server", True)),
        ("overloaded", ("server", True)),
        ("error_within", ("server", True)),
        ("busy", ("rate_limit", True)),
        ("bad_key", ("key", False)),
        ("no_model", ("model", False)),
        ("too_long", ("context", False)),
    ],
)
def test_every_fault_has_its_kind(
    server: ScriptedServer, kind: str, act: str, expected: tuple[str, bool]
) -> None:
    error = fault(server, kind, act)
    assert (error.kind, error.transient) == expected


def test_a_server_that_is_not_there_is_named() -> None:
    async def work() -> None:
        provider = OpenAIChatProvider(ProviderConfig("p", "openai-chat", "http://127.0.0.1:9/v1"))
        try:
            await provider.complete(REQUEST)
        finally:
            await provider.close()

    with pytest.raises(ProviderError, match="cannot be reached") as caught:
        asyncio.run(work())
    assert (caught.value.kind, caught.value.billed) == ("connection", False)


def test_the_pause_that_a_server_asks_for_is_read(server: ScriptedServer) -> None:
    assert fault(server, "openai-chat", "busy").retry_after == 0.01


@each_provider
def test_the_key_reaches_the_server_and_no_message(
    server: ScriptedServer, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    error = fault(server, kind, "bad_key", key_env="CANARY_KEY")
    sent = server.seen[0].headers
    assert KEY in f"{sent.get('authorization', '')} {sent.get('x-api-key', '')}"
    assert KEY not in str(error)
    assert KEY not in caplog.text
    assert "[key]" in str(error)


def test_a_key_that_is_not_there_is_named(server: ScriptedServer) -> None:
    with pytest.raises(ProviderError, match="NO_SUCH_KEY is not set"):
        ask(server, "openai-chat", key_env="NO_SUCH_KEY")
    assert server.seen == []


def test_a_command_prints_the_key(server: ScriptedServer) -> None:
    ask(server, "openai-chat", key_command=("printf", KEY))
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_what_a_failing_command_printed_is_not_shown(server: ScriptedServer) -> None:
    with pytest.raises(ProviderError, match="exit code 3") as caught:
        ask(server, "openai-chat", key_command=("sh", "-c", f"echo {KEY}; exit 3"))
    assert KEY not in str(caught.value)


def test_headers_come_from_the_environment(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", "t-0123456789")
    ask(server, "openai-chat", headers={"X-Team": "kernels", "X-Token": "env:TEAM_TOKEN"})
    assert (server.seen[0].headers["x-team"], server.seen[0].headers["x-token"]) == (
        "kernels",
        "t-0123456789",
    )


def test_a_callable_gives_a_fresh_token_each_time(server: ScriptedServer) -> None:
    given = iter(["first-token", "second-token"])

    async def work() -> None:
        async with httpx.AsyncClient() as client:
            provider = OpenAIChatProvider(
                config(server, "openai-chat"), client=client, token=lambda: next(given)
            )
            await provider.complete(REQUEST)
            await provider.complete(REQUEST)
            await provider.close()
            assert not client.is_closed, "a client of the caller's own stays open"

    asyncio.run(work())
    assert [seen.headers["authorization"] for seen in server.seen] == [
        "Bearer first-token",
        "Bearer second-token",
    ]


def test_a_server_with_another_name_for_the_limit_is_understood(server: ScriptedServer) -> None:
    server.script = ["dialect", "dialect"]
    assert ask(server, "openai-chat").text == "hello"
    assert [sorted(k for k in s.body if "max" in k) for s in server.seen] == [
        ["max_tokens"],
        ["max_completion_tokens"],
    ]


@each_provider
def test_the_check_names_a_model_that_is_not_there(server: ScriptedServer, kind: str) -> None:
    server.models = ["big-model", "small-model"]

    async def work() -> None:
        provider = PROVIDERS[kind](config(server, kind))
        try:
            await provider.check("bigmodel")
        finally:
            await provider.close()

    with pytest.raises(ProviderError, match="did you mean 'big-model'") as caught:
        asyncio.run(work())
    assert caught.value.fatal
