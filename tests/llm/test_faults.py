"""A thousand faults: every candidate arrives, no cap is overrun, and no key is left anywhere."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from pathlib import Path

import pytest
from bench import DEVICE, SPEC, generator, kernel, proposal, settings_for
from scripted import ScriptedServer, Seen

from kevolve_core.errors import SpendingLimitError
from kevolve_core.interfaces import Proposal
from kevolve_core.llm import Journal, LlmGenerator

KEY = "sk-canary-9f8e7d6c5b4a3210"
QUICK = (
    "drop",
    "drop_within",
    "cut",
    "html",
    "html_502",
    "busy",
    "overloaded",
    "failed",
    "garbage",
    "error_within",
)
SLOW = ("stall", "stall_within")


def faults(count: int, seed: int) -> list[str]:
    """``count`` faults in runs of two to eight, with an answer after each run; a twentieth are stalls."""
    rng = random.Random(seed)
    script: list[str] = []
    left = count
    while left:
        for _ in range(min(left, rng.randint(2, 8))):
            script.append(rng.choice(SLOW) if rng.random() < 0.05 else rng.choice(QUICK))
            left -= 1
        script.append("ok")
    return script


def numbered(seen: Seen) -> str:
    """A kernel that differs from request to request, by the idempotency key."""
    return kernel(int(seen.headers["idempotency-key"][-8:], 16))


async def propose_all(made: LlmGenerator, count: int, at_once: int = 24) -> list[object]:
    places = asyncio.Semaphore(at_once)

    async def one(sequence: int) -> object:
        async with places:
            try:
                return (await made.propose(Proposal(SPEC, DEVICE, sequence, 0), 1))[0]
            except SpendingLimitError as error:
                return error

    try:
        return await asyncio.gather(*(one(n) for n in range(count)))
    finally:
        await made.close()


@pytest.mark.parametrize("kind", ["openai-chat", "openai", "anthropic"])
def test_a_thousand_faults_lose_no_candidate_and_show_no_key(
    server: ScriptedServer,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.answer = numbered
    script = faults(334, seed=len(kind))
    server.script = list(script)
    answers = script.count("ok") + 20
    settings = settings_for(server.url, kind, key_env="CANARY_KEY", concurrency=24, attempts=40)
    made = generator(settings)
    made.open(tmp_path, tokens=1 << 40)
    candidates = asyncio.run(propose_all(made, answers))
    assert all(type(c).__name__ == "Candidate" for c in candidates)
    assert len({c.id for c in candidates}) == answers  # type: ignore[attr-defined]
    assert sum(act != "ok" for act in server.done) == 334
    assert len(list(Journal(tmp_path).calls())) == answers
    assert server.billed <= Journal(tmp_path).spent().tokens, "something was billed that nobody booked"
    assert KEY in server.seen[0].headers.get("authorization", server.seen[0].headers.get("x-api-key", ""))
    assert KEY not in caplog.text
    assert [f for f in tmp_path.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()] == []
    assert KEY not in repr(vars(made)) + repr(candidates)


def test_a_cap_holds_whatever_the_server_does(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = numbered
    script = [act for act in faults(150, seed=3) if act not in SLOW]
    server.script = list(script)
    cap = 400_000
    made = generator(settings_for(server.url, concurrency=24, attempts=40))
    made.open(tmp_path, tokens=cap)
    found = asyncio.run(propose_all(made, 200))
    refused = [f for f in found if isinstance(f, SpendingLimitError)]
    arrived = [f for f in found if not isinstance(f, SpendingLimitError)]
    assert refused
    assert arrived
    assert server.billed <= Journal(tmp_path).spent().tokens <= cap


def test_requests_in_flight_count_against_the_cap(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = numbered
    made = generator(settings_for(server.url, concurrency=24))
    made.open(tmp_path / "one", tokens=1 << 40)
    asyncio.run(propose_all(made, 1))
    (call,) = Journal(tmp_path / "one").calls()
    most = call.request.input_bound + call.request.max_output_tokens
    server.script = ["cut"] * 100
    server.seen.clear()
    second = generator(settings_for(server.url, concurrency=24, attempts=1))
    second.open(tmp_path / "two", tokens=int(most * 3.5))

    async def rush() -> list[object]:
        asked = (second.propose(proposal(n), 1) for n in range(10))
        try:
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await second.close()

    asyncio.run(rush())
    assert len(server.seen) == 3, "three upper bounds fit under the cap, and cut replies may have been billed"


def test_money_is_capped_too(server: ScriptedServer, tmp_path: Path) -> None:
    from kevolve_core.llm import ModelConfig

    server.answer = numbered
    prices = {"m": ModelConfig(price_in=1.0, price_out=10.0, max_output_tokens=1000)}
    made = generator(settings_for(server.url, models=prices, concurrency=8))
    made.open(tmp_path, money=0.05)
    found = asyncio.run(propose_all(made, 100))
    assert any(isinstance(f, SpendingLimitError) and f.limit == "money" for f in found)
    assert 0 < Journal(tmp_path).spent().money <= 0.05


def test_the_rate_of_requests_is_limited(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kevolve_core.llm.desk._MINUTE", 0.5)
    server.answer = numbered
    made = generator(settings_for(server.url, requests_per_minute=10.0, concurrency=24))
    made.open(tmp_path)
    start = time.monotonic()
    asyncio.run(propose_all(made, 20))
    assert len(server.seen) == 20
    assert time.monotonic() - start >= 0.45, "ten at once, then twenty a second"
