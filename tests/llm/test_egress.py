"""Nothing that derives from confidential material reaches a provider that may not see it: on the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import evolve
from bench import DEVICE, generator, kernel, proposal, settings_for

from kevolve_core.errors import EgressError
from kevolve_core.llm import Journal, Knowledge, LlmGenerator, LlmSettings, Mix, ProviderConfig
from kevolve_core.model import (
    Candidate,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Profile,
    Verdict,
    VerdictKind,
)

CANARIES = {
    "page": "CANARY-PAGE-77aa",
    "diagnostics": "CANARY-DIAGNOSTICS-77ab",
    "counters": "CANARY-COUNTER-77ac",
    "hint": "CANARY-HINT-77ad",
    "source": "CANARY-SOURCE-77ae",
    "fact": "CANARY-FACT-77af",
    "sibling": "CANARY-SIBLING-77b0",
}
SECRET_DEVICE = evolve(DEVICE, facts={"secret_unit": CANARIES["fact"]})


class Wire:
    """The httpx transport: keeps every byte that would leave."""

    def __init__(self) -> None:
        self.sent = b""
        self.hosts: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        self.sent += str(request.url).encode() + str(request.headers.raw).encode() + body
        self.hosts.append(request.url.host)
        text = kernel(len(self.hosts))
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return httpx.Response(
            200, json={"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}
        )

    def seen(self) -> list[str]:
        return [name for name, canary in CANARIES.items() if canary.encode() in self.sent]


def parent(generator_name: str, canary: str, **notes: Any) -> Candidate:
    text = f"# {canary}\ndef double(x):\n    return x\n"
    return Candidate(
        {"kernel.py": text}, "kernel.py", "triton", "double", origin=Origin(generator_name, "draft", notes)
    )


def evaluation(candidate: Candidate, kind: VerdictKind = VerdictKind.WRONG_RESULT) -> Evaluation:
    profile = Profile(Evidence.MEASURED, {CANARIES["counters"]: 1.0}, hints=(CANARIES["hint"],))
    verdict = Verdict(kind, "no", "compile", {"log": f"error: {CANARIES['diagnostics']}"})
    timed = Measurement("a", "fake:0", Evidence.MEASURED, "quick", (1e-3,))
    return Evaluation(candidate.id, verdict, (), (timed,), profile=profile)


def made(wire: Wire, run: Path, *, confidential: str, settings: LlmSettings | None = None) -> LlmGenerator:
    client = httpx.AsyncClient(transport=httpx.MockTransport(wire))
    page = Knowledge("Secret", CANARIES["page"], 1.0, frozenset({"page:hardware/secret"}))
    public = Knowledge("Public", "known to all", 0.5)
    found = generator(
        settings or settings_for("http://outside.example/v1"),
        confidential=confidential,
        knowledge=lambda *_: [page, public],
        clients={"p": client, "inside": client},
    )
    found._device = SECRET_DEVICE
    found.open(run)
    return found


def propose(found: LlmGenerator, context: Any) -> Candidate:
    async def work() -> Candidate:
        try:
            return (await found.propose(context, 1))[0]
        finally:
            await found.close()

    return asyncio.run(work())


def context(candidate: Candidate, judged: Evaluation) -> Any:
    return proposal(5, operator="mutate", parents=(candidate,), evaluations={candidate.id: judged}, told=5)


def test_nothing_of_a_confidential_backend_leaves(tmp_path: Path) -> None:
    wire = Wire()
    start = parent("synth", CANARIES["source"])
    found = made(wire, tmp_path, confidential="secret")
    sibling = evolve(parent("llm", CANARIES["sibling"], taint=["backend:secret"]), parents=(start.id,))
    found.tell(3, sibling, evaluation(sibling, VerdictKind.ACCEPTED))
    candidate = propose(found, context(start, evaluation(start)))
    assert wire.hosts == ["outside.example"]
    assert wire.seen() == []
    assert candidate.origin.operator == "draft", "the parent may not be shown, so a draft was asked for"
    assert candidate.origin.notes["taint"] == []


def test_a_cleared_provider_sees_it_and_its_candidate_is_tainted(tmp_path: Path) -> None:
    wire = Wire()
    start = parent("synth", CANARIES["source"])
    settings = settings_for("http://inside.example/v1", confidential=("backend:secret", "page:hardware/*"))
    candidate = propose(
        made(wire, tmp_path, confidential="secret", settings=settings), context(start, evaluation(start))
    )
    assert set(wire.seen()) == set(CANARIES) - {"sibling"}
    assert candidate.origin.notes["taint"] == ["backend:secret", "page:hardware/secret"]
    (call,) = Journal(tmp_path).calls()
    assert call.request.taint == {"backend:secret", "page:hardware/secret"}, "the transcript is tainted too"


def test_what_a_tainted_candidate_became_stays_inside(tmp_path: Path) -> None:
    """Of an open backend: only the page is confidential, and it taints source, diagnostics and siblings."""
    wire = Wire()
    start = parent("llm", CANARIES["source"], taint=["page:hardware/secret"])
    found = made(wire, tmp_path, confidential="")
    sibling = evolve(parent("llm", CANARIES["sibling"], taint=["page:hardware/secret"]), parents=(start.id,))
    found.tell(3, sibling, evaluation(sibling, VerdictKind.ACCEPTED))
    propose(found, context(start, evaluation(start)))
    assert wire.seen() == ["fact"], (
        "the device of an open backend is no secret; all else derives from the page"
    )


def test_the_users_own_kernel_is_no_secret_but_its_diagnostics_are(tmp_path: Path) -> None:
    wire = Wire()
    start = parent("user", CANARIES["source"])
    propose(made(wire, tmp_path, confidential="secret"), context(start, evaluation(start)))
    assert wire.seen() == ["source"]


def test_a_model_that_may_see_it_is_asked_instead(tmp_path: Path) -> None:
    wire = Wire()
    start = parent("synth", CANARIES["source"])
    settings = settings_for("http://outside.example/v1")
    inside = ProviderConfig("inside", "openai-chat", "http://inside.example/v1", confidential=("*",))
    providers = evolve(settings.providers, providers={**settings.providers.providers, "inside": inside})
    settings = evolve(settings, providers=providers, mix=Mix.parse(["p:m", "inside:m"]))
    found = made(wire, tmp_path, confidential="secret", settings=settings)
    candidate = propose(found, context(start, evaluation(start)))
    assert (wire.hosts, candidate.origin.operator) == (["inside.example"], "repair")


def test_the_mending_of_a_reply_goes_to_nobody_who_may_not_see_it(tmp_path: Path) -> None:
    wire = Wire()
    start = parent("synth", CANARIES["source"])
    settings = settings_for("http://inside.example/v1", confidential=("*",))
    outside = ProviderConfig("inside", "openai-chat", "http://outside.example/v1")
    providers = evolve(settings.providers, providers={**settings.providers.providers, "inside": outside})
    settings = evolve(settings, providers=providers, mix=Mix.parse(["p:m", "mend=inside:m"]))
    found = made(wire, tmp_path, confidential="secret", settings=settings)
    wire_call = wire.__call__

    async def malformed(request: httpx.Request) -> httpx.Response:
        response = await wire_call(request)
        if len(wire.hosts) > 1:
            return response
        return httpx.Response(
            200, json={"choices": [{"message": {"content": "no"}, "finish_reason": "stop"}]}
        )

    client = httpx.AsyncClient(transport=httpx.MockTransport(malformed))
    found._clients = {"p": client, "inside": client}
    propose(found, context(start, evaluation(start)))
    assert wire.hosts == ["inside.example", "inside.example"]


def test_without_anybody_cleared_the_reason_is_said(tmp_path: Path) -> None:
    from kevolve_core.llm.parts import Part, clear

    del tmp_path
    with pytest.raises(EgressError, match="provider 'p' may not see"):
        clear([Part("parent", "x", taint=frozenset({"page:a"}))], ("backend:*",), "p")


def test_what_the_tuner_makes_of_a_tainted_kernel_is_tainted(tmp_path: Path) -> None:
    """Numbers changed in a confidential source leave it confidential, with an open backend too."""
    from kevolve_core.evolve import MixedGenerator
    from kevolve_core.taint import inheriting, sources

    text = f'# {CANARIES["source"]}\nKEVOLVE_TUNABLES = {{"B": [1, 2, 4]}}\nB = 2\n'
    start = parent("llm", "", taint=["page:hardware/secret"])
    start = evolve(start, files={"kernel.py": text + "def double(x):\n    return x\n"})
    asked = proposal(6, operator="mutate", parents=(start,), evaluations={start.id: evaluation(start)})
    wire = Wire()
    found = made(wire, tmp_path, confidential="")
    tuned = inheriting(
        asyncio.run(MixedGenerator({"llm": found}).propose(evolve(asked, part="tuner"), 1))[0], (start,)
    )
    assert (tuned.origin.generator, sources(tuned)) == ("tuner", {"page:hardware/secret"})
    propose(found, context(tuned, evaluation(tuned)))
    assert wire.seen() == ["fact"]


def test_a_search_notes_what_proposals_inherit() -> None:
    from kevolve_core.taint import inheriting, sources

    secret, clear = parent("llm", "a", taint=["page:x"]), parent("llm", "b", taint=[])
    child = evolve(parent("acme", "c"), parents=(secret.id,))
    assert sources(inheriting(child, (secret, clear))) == {"page:x"}
    assert sources(inheriting(evolve(child, parents=(clear.id,)), (secret, clear))) == set()
    assert sources(inheriting(evolve(child, parents=()), (secret, clear))) == {"page:x"}
    grandchild = evolve(parent("acme", "d"), parents=(child.id,))
    assert sources(inheriting(grandchild, (inheriting(child, (secret,)),))) == {"page:x"}
    knowing = evolve(parent("llm", "e", taint=[]), parents=(secret.id,))
    assert inheriting(knowing, (secret,)) is knowing, "a generator that wrote down from what is believed"
