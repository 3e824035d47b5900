"""The universal operator and what surrounds it: mending, mixes, the bandit, caps, configuration."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from bench import generator, judge, kernel, proposal, search, settings_for
from scripted import ScriptedServer, Seen

from kevolve_core.errors import ConfigError, MalformedReplyError, ProviderError, UnknownNameError
from kevolve_core.evolve import Budget
from kevolve_core.llm import Journal, LlmGenerator, LlmSettings, Mix, ModelRef, read_file
from kevolve_core.llm.bandit import Outcome, choose
from kevolve_core.llm.summary import summary
from kevolve_core.model import Candidate
from kevolve_core.serial import from_plain, to_plain


def propose(made: LlmGenerator, run: Path, context: Any = None) -> Candidate:
    async def work() -> Candidate:
        made.open(run)
        try:
            return (await made.propose(context or proposal(), 1))[0]
        finally:
            await made.close()

    return asyncio.run(work())


def test_a_malformed_reply_is_asked_about_once_before_it_costs_an_evaluation(
    server: ScriptedServer, tmp_path: Path
) -> None:
    answers = iter(["I would start with a loop.", kernel(3)])
    server.answer = lambda _: next(answers)
    candidate = propose(generator(settings_for(server.url)), tmp_path)
    assert candidate.files["kernel.py"].startswith("SPEED = 3")
    assert candidate.origin.notes["mended"] is True
    turns = server.seen[1].body["messages"]
    assert [m["role"] for m in turns] == ["system", "user", "assistant", "user"]
    assert "neither a file nor an edit" in turns[3]["content"]


def test_a_second_malformed_reply_is_a_recorded_fault(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = lambda _: "No."
    with pytest.raises(MalformedReplyError):
        propose(generator(settings_for(server.url)), tmp_path)
    assert len(server.seen) == 2


def test_a_reply_that_was_cut_off_is_told_so(server: ScriptedServer, tmp_path: Path) -> None:
    server.stop = "length"
    server.answer = lambda _: "`kernel.py`\n```python\ndef double(x):"
    with pytest.raises(MalformedReplyError, match="cut off at its limit of 8192 tokens"):
        propose(generator(settings_for(server.url)), tmp_path)


def test_a_prompt_that_is_too_long_for_the_server_is_sent_shorter(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.script = ["too_long"]
    server.answer = lambda _: kernel(3)
    assert propose(generator(settings_for(server.url)), tmp_path).language == "triton"


def test_a_refusal_is_kept_and_not_asked_again(server: ScriptedServer, tmp_path: Path) -> None:
    server.stop = "refusal"
    for _ in range(2):
        with pytest.raises(ProviderError, match="the model refused"):
            propose(generator(settings_for(server.url)), tmp_path)
    assert len(server.seen) == 1


def test_what_was_answered_is_not_asked_again(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = lambda _: kernel(3)
    first = propose(generator(settings_for(server.url)), tmp_path)
    again = generator(settings_for(server.url))
    assert propose(again, tmp_path) == first
    assert len(server.seen) == 1


def test_a_bad_key_ends_the_run_and_it_can_be_resumed(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = lambda seen: kernel(int(seen.headers["idempotency-key"][-4:], 16))
    server.script = ["ok", "ok", "bad_key", "bad_key", "bad_key", "bad_key"]
    settings = settings_for(server.url)
    stopped = search(tmp_path / "run", generator(settings), settings)
    assert stopped.error is not None
    assert "does not accept the key" in str(stopped.error)
    server.script = []
    result = search(tmp_path / "run", generator(settings), settings)
    assert (result.error, result.stopped, result.evaluations) == (None, "candidates", 12)


def test_a_cap_ends_the_search_and_what_is_paid_for_is_evaluated(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.answer = lambda seen: kernel(int(seen.headers["idempotency-key"][-4:], 16))
    settings = settings_for(server.url)
    result = search(
        tmp_path / "run", generator(settings), settings, tokens=40_000, budget=Budget(candidates=99)
    )
    calls = [call for call in Journal(tmp_path / "run").calls() if call.reply is not None]
    assert result.stopped == "tokens"
    assert 0 < result.evaluations == len(calls)
    assert result.tokens == sum(call.cost.tokens for call in calls) <= 40_000


def test_models_that_are_given_share_a_role(server: ScriptedServer, tmp_path: Path) -> None:
    def answer(seen: Seen) -> str:
        number = int(seen.headers["idempotency-key"][-4:], 16)
        return kernel(number - number % 13 if seen.body["model"] == "poor" else number - number % 13 + 1)

    server.answer = answer
    settings = evolve(settings_for(server.url), mix=Mix.parse(["p:good", "p:poor"]))
    search(tmp_path / "run", generator(settings), settings, budget=Budget(candidates=40), window=1)
    asked = [seen.body["model"] for seen in server.seen]
    assert asked.count("good") > 2 * asked.count("poor") > 0
    table = summary(tmp_path / "run")["models"]
    assert sum(row["requests"] for row in table) == len(asked)


def outcomes(model: str, count: int, reward: float, cost: float) -> list[Outcome]:
    return [Outcome(n, "draft", ModelRef("p", model), reward, cost) for n in range(count)]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((40, 0.9, 1.0), (40, 0.1, 1.0), "a"),
        ((40, 0.8, 100.0), (40, 0.7, 1.0), "b"),
        ((40, 0.9, 2.0), (40, 0.2, 1.0), "a"),
        ((0, 0.0, 0.0), (40, 0.9, 1.0), "a"),
    ],
)
def test_the_bandit_weighs_success_against_cost(
    a: tuple[int, float, float], b: tuple[int, float, float], expected: str
) -> None:
    models = [ModelRef("p", "a"), ModelRef("p", "b")]
    known = outcomes("a", *a) + outcomes("b", *b)
    assert choose(models, known, "draft", random.Random(0)).model == expected


def test_settings_survive_storing() -> None:
    settings = settings_for("http://x/v1", headers={"X-Team": "a"})
    assert from_plain(LlmSettings, to_plain(settings)) == settings


def test_a_money_cap_needs_prices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the price of every model"):
        generator(settings_for("http://x/v1")).open(tmp_path, money=1.0)


def test_a_provider_of_a_plugin_is_found() -> None:
    from kevolve_core.llm import provider_factory
    from kevolve_core.registry import Registry

    registry = Registry()
    registry.add_provider("ours", dict)
    assert provider_factory(registry)("ours") is dict
    with pytest.raises(UnknownNameError, match="no provider of kind 'antropic'") as caught:
        provider_factory(registry)("antropic")
    assert "did you mean 'anthropic'" in str(caught.value)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "providers.toml"
    file.write_text(text)
    return file


def test_a_file_describes_providers_models_and_mix(tmp_path: Path) -> None:
    found = read_file(
        write(
            tmp_path,
            '[providers.gw]\nkind = "openai-chat"\nbase_url = "https://h/v1/"\nkey_env = "GW"\n'
            'confidential = true\n[providers.gw.models."big"]\nprice_in = 1\nprice_out = 2.5\n'
            '[mix]\ndraft = ["gw:big"]\nrepair = "ollama:small"\n',
        )
    )
    gw = found.get("gw")
    assert (gw.base_url, gw.key_env, gw.confidential) == ("https://h/v1", "GW", ("*",))
    assert gw.model("big").cost(1_000_000, 1_000_000) == 3.5
    assert found.mix.plain() == ["draft=gw:big", "repair=ollama:small"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[provider.x]\n", "did you mean 'providers'"),
        ("[providers.x]\nbase_ur = 'h'\n", "did you mean 'base_url'"),
        ("[providers.openai]\nheaders = {Authorization = 'Bearer sk-1'}\n", "would be a secret in a file"),
        ("[providers.openai]\nbase_url = 'https://me:pw@h/v1'\n", "carries a user, a password or a query"),
        ("[providers.openai]\nattempts = 0\n", "providers.openai.attempts"),
        ("[providers.openai.models.m]\ncontext_tokens = 100\n", "must hold more than its reply"),
        (
            "[providers.openai.models.m]\nextra = {max_completion_tokens = 9}\n",
            "holds what Kevolve sets itself",
        ),
        ("[mix]\ndraught = 'openai:m'\n", "there is no role 'draught'"),
        ("[mix]\ndraft = 'm'\n", "a model is named PROVIDER:MODEL"),
        ("providers = [", "is not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_file(write(tmp_path, text))
    assert says in str(caught.value)


def test_a_key_is_not_sent_to_another_server_than_its_own(tmp_path: Path) -> None:
    found = read_file(write(tmp_path, "[providers.openai]\nbase_url = 'http://localhost:1/v1'\n"))
    assert found.get("openai").key_env == ""


def test_siblings_are_shown_as_far_as_the_proposal_was_told(server: ScriptedServer, tmp_path: Path) -> None:
    server.answer = lambda _: kernel(3)
    made = generator(settings_for(server.url))
    parent = Candidate({"kernel.py": "def double(x):\n    return x + x\n"}, "kernel.py", "triton", "double")
    for n in range(2, 6):
        child = Candidate(
            {"kernel.py": f"SPEED = {n}\n\n\ndef double(x):\n    return x + x\n"},
            "kernel.py",
            "triton",
            "double",
            (parent.id,),
        )
        made.tell(n, child, judge(child, ("quick",)))
    context = proposal(
        6, operator="mutate", parents=(parent,), evaluations={parent.id: judge(parent, ("quick",))}, told=4
    )
    propose(made, tmp_path, context)
    prompt = server.seen[0].body["messages"][1]["content"]
    assert ["SPEED = 2" in prompt, "SPEED = 3" in prompt, "SPEED = 4" in prompt] == [True, True, False]


def test_a_person_answers_through_the_mailbox(tmp_path: Path) -> None:
    import threading
    import time

    box = tmp_path / "box"

    def person() -> None:
        while not (found := list(box.glob("*.prompt.md"))):
            time.sleep(0.02)
        assert "# The task: double" in found[0].read_text()
        found[0].with_name(found[0].name.replace("prompt", "reply")).write_text(kernel(5))

    thread = threading.Thread(target=person)
    thread.start()
    settings = evolve(LlmSettings(), mix=Mix.parse([f"mailbox:{box}"]), language="triton")
    candidate = propose(generator(settings), tmp_path / "run")
    thread.join()
    assert candidate.files["kernel.py"].startswith("SPEED = 5")
