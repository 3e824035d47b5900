"""A real server speaks to each client: llama.cpp's, with a tiny random model made here."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from kevolve_core.errors import ProviderError
from kevolve_core.llm import Message, ProviderConfig, Reply, Request, provider_factory
from kevolve_core.registry import Registry

KEY = "sk-local-0123456789"
REQUEST = Request("local", "tiny", (Message("system", "write"), Message("user", "hi")), 8, 0.0, nonce="0:0:0")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp in a process of its own."""
    folder = tmp_path_factory.mktemp("llama")
    child = Path(__file__).with_name("llama_child.py")
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, str(child), str(folder), KEY], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "url").exists():
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, "llama.cpp did not start"
            time.sleep(0.05)
        yield (folder / "url").read_text() + "/v1"
    finally:
        process.kill()
        process.wait()


def ask(url: str, kind: str, request: Request = REQUEST, key: str = KEY) -> Reply:
    async def work() -> Reply:
        os.environ["KEVOLVE_TEST_KEY"] = key
        config = ProviderConfig("local", kind, url, key_env="KEVOLVE_TEST_KEY")
        provider = provider_factory(Registry())(kind)(config)
        try:
            return await provider.complete(request)
        finally:
            await provider.close()
            del os.environ["KEVOLVE_TEST_KEY"]

    return asyncio.run(work())


each_kind = pytest.mark.parametrize("kind", ["openai-chat", "openai", "anthropic"])


@each_kind
def test_a_reply_comes_with_its_counts(url: str, kind: str) -> None:
    reply = ask(url, kind)
    assert (reply.stop, reply.output_tokens, reply.counted) == ("length", 8, True)
    assert 0 < reply.input_tokens <= REQUEST.input_bound
    assert reply.text


@each_kind
def test_a_prompt_that_is_too_long_is_a_context_fault(url: str, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        ask(url, kind, evolve(REQUEST, messages=(Message("user", "word " * 2000),)))
    assert caught.value.kind == "context"


@each_kind
def test_a_wrong_key_is_refused(url: str, kind: str) -> None:
    with pytest.raises(ProviderError) as caught:
        ask(url, kind, key="sk-wrong-0123456789")
    assert (caught.value.kind, "sk-wrong" in str(caught.value)) == ("key", False)
