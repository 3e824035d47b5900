"""The server as an agent meets it: a subprocess, spoken to by the official client."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the official MCP package is not installed: pip install 'kevolve[mcp]'")

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

import kevolve_core
from kevolve_core import Registry
from kevolve_core.cli.app import run as kevolve
from kevolve_core.evolve import Evaluated, Event
from kevolve_core.interfaces import Proposal
from kevolve_core.knowledge import Page
from kevolve_core.knowledge.experience.book import write_page
from kevolve_core.model import Candidate, Origin
from tests.double import plugin as toy
from tests.mcp import secret_plugin
from tests.mcp.secret_plugin import CANARY

ROOT = Path(__file__).resolve().parents[2]
FILES = {"kernel.py": "def add_one(x):\n    return x + 1\n"}

Ask = Callable[..., Awaitable[Any]]


class Failed(Exception):  # noqa: N818
    """The tool answered with an error."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, both plugins, and knowledge of the user's own."""
    folder = tmp_path_factory.mktemp("mcp")
    toy.write_files(folder)
    with (folder / "plugins.toml").open("a") as file:
        file.write(f'[plugins.secret]\npath = "{secret_plugin.__file__}"\n')
    text = f"Under embargo: {CANARY}. Softmax with an illegal memory access."
    write_page(
        Page("skills/x/embargo", f"A {CANARY} skill", "skills", text, confidential=True), folder / "kb"
    )
    write_page(
        Page("guidance/mine", "A public page of mine", "guidance", "Softmax the xylophone way."),
        folder / "kb",
    )
    return folder


def speak(home: Path, talk: Callable[[Ask], Awaitable[None]], *options: str) -> None:
    """Start the server in ``home`` and run ``talk`` with a function that calls one tool."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XDG_CACHE_HOME": str(home / "cache"),
        "KEVOLVE_KNOWLEDGE": str(home / "kb"),
    }
    arguments = ["-m", "kevolve_core.cli", "mcp", "--executor", "toy", *options]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment, cwd=home)

    async def main() -> None:
        with anyio.fail_after(300):
            async with Client(stdio_client(server)) as client:

                async def ask(tool: str, **arguments: Any) -> Any:
                    answer = await client.call_tool(tool, arguments)
                    if answer.is_error:
                        raise Failed(" ".join(str(part) for part in answer.content))
                    return answer.structured_content

                await talk(ask)

    anyio.run(main)


def test_an_agent_finds_its_way(home: Path) -> None:
    async def talk(ask: Ask) -> None:
        targets = await ask("list_targets")
        shown = {backend["name"]: backend for backend in targets["backends"]}
        assert shown["toy"]["languages"] == ["python"]
        assert shown["toy"]["devices"][0]["name"] == "Toy 9000"
        assert "hopper" in targets["known_targets"]

        found = await ask("search_knowledge", text="an illegal memory access was encountered", count=3)
        assert found["pages"][0]["id"] == "constraints/memory-safety"
        assert (await ask("read_page", page="guidance/mine"))["body"] == "Softmax the xylophone way."

        with pytest.raises(Failed, match=r"which operator shall the kernel compute\?"):
            await ask("resolve", request="Generate a Triton kernel for MTIA v3")

        good = await ask("evaluate", spec="spec.yaml", files=FILES, backend="toy")
        assert (good["accepted"], good["score"], good["evidence"]) == (True, 1.0, "measured")
        inline = await ask("evaluate", spec=toy.SPEC, files=FILES, backend="toy")
        assert inline["candidate"] == good["candidate"]
        profiled = await ask("profile", spec="spec.yaml", files=FILES, backend="toy")
        assert profiled["verdict"]["kind"] == "accepted"

    speak(home, talk)


def test_a_run_is_begun_fed_read_and_finished(home: Path) -> None:
    async def talk(ask: Ask) -> None:
        begun = await ask("start_run", spec="spec.yaml", backend="toy", out="fed")
        run = begun["run"]
        first = await ask("submit_candidate", run=run, files=FILES)
        assert (first["sequence"], first["accepted"]) == (0, True)
        again = await ask("submit_candidate", run=run, files=FILES)
        assert again["candidate"] == first["candidate"]
        other = {"kernel.py": "def add_one(x):\n    y = x + 1\n    return y\n"}
        second = await ask("submit_candidate", run=run, files=other, parents=[first["candidate"]])
        assert second["sequence"] == 2

        read = await ask("read_run", run=run)
        assert (read["phase"], read["evaluations"]) == ("search", 2)
        one = await ask("read_run", run=run, candidate=second["candidate"])
        assert one["candidate"]["files"] == other
        assert one["candidate"]["parents"] == [first["candidate"]]

        done = await ask("finish_run", run=run)
        assert Path(home / done["report"]).exists()
        assert (await ask("read_run", run=run))["status"] == "finished"
        with pytest.raises(Failed, match="no run of this server is waiting"):
            await ask("submit_candidate", run=run, files=FILES)
        with pytest.raises(Failed, match="the search of this run is over"):
            await ask("start_run", run=run)

    speak(home, talk)


def test_a_run_left_behind_is_resumable(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def begin(ask: Ask) -> None:
        await ask("start_run", spec="spec.yaml", backend="toy", out="left")
        await ask("submit_candidate", run="left", files=FILES)

    async def go_on(ask: Ask) -> None:
        assert (await ask("read_run", run="left"))["status"] == "interrupted"
        await ask("start_run", run="left")
        other = {"kernel.py": "def add_one(x):\n    return 1 + x\n"}
        assert (await ask("submit_candidate", run="left", files=other))["sequence"] == 1
        await ask("finish_run", run="left")

    speak(home, begin)
    monkeypatch.chdir(home)
    assert kevolve(["resume", "left"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "an agent submits this run's candidates over MCP" in said
    assert "start_run with this folder as `run` goes on" in said
    speak(home, go_on)


def test_mistakes_are_answered_with_their_mend(home: Path) -> None:
    whole = {"spec": "spec.yaml", "files": FILES, "backend": "toy"}
    mistakes: list[tuple[str, dict[str, Any], str]] = [
        ("evaluate", {"spec": "nope.yaml", "files": FILES}, "nope.yaml"),
        ("evaluate", {"spec": "spec.yaml", "backend": "toy"}, "either files or a path"),
        ("evaluate", {"spec": "spec.yaml", "files": FILES, "backend": "tpy"}, "did you mean 'toy'"),
        ("evaluate", {**whole, "language": "cobol"}, "one of: python"),
        ("evaluate", {**whole, "files": {"../x.py": ""}}, "inside the candidate"),
        ("read_page", {"page": "guidance/min"}, "did you mean 'guidance/mine'"),
        ("read_run", {"run": "nowhere"}, "no run in this directory"),
        ("start_run", {}, "give one of the two"),
    ]  # fmt: skip

    async def talk(ask: Ask) -> None:
        for tool, arguments, said in mistakes:
            with pytest.raises(Failed, match=said):
                await ask(tool, **arguments)

    speak(home, talk)


def test_nothing_confidential_reaches_the_agent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    evolve = ("evolve", "spec.yaml", "--generator", "toy", "--executor", "toy", "--budget", "5c")
    assert kevolve([*evolve, "--backend", "secret", "--out", "hidden"]) == 0
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list_targets", {}),
        ("search_knowledge", {"text": "softmax illegal memory access embargo unit", "count": 20}),
        ("search_knowledge", {"text": CANARY[:8], "target": "secret", "count": 20}),
        ("read_page", {"page": "skills/x/embargo"}),
        ("read_page", {"page": "skills/x/embarg"}),
        ("read_page", {"page": "hardware/secret/overview"}),
        ("read_run", {"run": "hidden"}),
        ("read_run", {"run": "hidden", "candidate": "0"}),
        ("start_run", {"run": "hidden"}),
        ("start_run", {"spec": "spec.yaml", "backend": "secret"}),
        ("submit_candidate", {"run": "hidden", "files": FILES}),
        ("evaluate", {"spec": "spec.yaml", "files": FILES, "backend": "secret"}),
        ("evaluate", {"spec": "spec.yaml", "files": FILES, "backend": "secret", "device": "secret:9"}),
        ("profile", {"spec": "spec.yaml", "files": FILES, "backend": "secret"}),
        ("resolve", {"request": "softmax on mi300x"}),
        ("resolve", {"request": "softmax on zanzibar canar"}),
    ]

    async def answers(ask: Ask) -> list[str]:
        said = []
        for tool, arguments in calls:
            try:
                said.append(json.dumps(await ask(tool, **arguments)))
            except Failed as error:
                said.append(str(error))
        return said

    async def talk(ask: Ask) -> None:
        said = await answers(ask)
        assert [text for text in said if CANARY in text] == []
        assert "backend 'secret' is confidential" in said[-5]

    async def open_talk(ask: Ask) -> None:
        assert sum(CANARY in text for text in await answers(ask)) >= 5

    speak(home, talk)
    speak(home, open_talk, "--allow-confidential")


class Tainted(toy.ToyGenerator):
    """As a language model that was shown a confidential page, and left another one out."""

    async def propose(self, context: Proposal, n: int) -> Sequence[Candidate]:
        notes = {
            "taint": ["page:skills/x/embargo"] if context.sequence else [],
            "left_out": [f"knowledge: A {CANARY} skill (confidential)"],
        }
        return [
            made.with_origin(Origin("llm", context.operator, notes))
            for made in await super().propose(context, n)
        ]


def test_a_run_that_used_a_confidential_page_gives_nothing_of_it_away(home: Path) -> None:
    """Of a public backend: its other candidates may be read, its winner may not."""
    registry = Registry()
    registry.register(toy, name="toy")
    evaluated: list[Event] = []
    begun = kevolve_core.evolve(
        home / "spec.yaml", registry=registry, generator=Tainted(), executor="toy", seed=1,
        out=home / "mixed", budget="50c", on_event=evaluated.append,
        stop=lambda: sum(isinstance(event, Evaluated) for event in evaluated) > 24,
    )  # fmt: skip
    assert begun.resumable
    assert begun.best is not None
    assert begun.best.origin.notes["taint"]
    ids = [event.candidate_id for event in evaluated if isinstance(event, Evaluated)]

    async def talk(ask: Ask) -> None:
        open_one = await ask("read_run", run="mixed", candidate=ids[0])
        assert open_one["candidate"]["origin"]["notes"]["left_out"] == ["knowledge (confidential)"]
        assert CANARY not in json.dumps(open_one)
        hidden = await ask("read_run", run="mixed", candidate=ids[-1])
        assert hidden == {"candidate": {"id": ids[-1], "withheld": "confidential"}}
        assert (await ask("read_run", run="mixed"))["profile_of_best"] is None

    speak(home, talk)
