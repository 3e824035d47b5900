"""A recorded search again: exactly, with no network, and it says so when it is not."""

from __future__ import annotations

import gzip
import json
import socket
from pathlib import Path

import pytest
from attrs import evolve
from bench import generator, kernel, search, settings_for
from scripted import ScriptedServer, Seen

from kevolve_core.api.replaying import replay
from kevolve_core.errors import StoreError
from kevolve_core.evolve import MixedGenerator
from kevolve_core.llm import LlmSettings, Mix
from kevolve_core.llm.recording import pack, unpack

SESSIONS = Path(__file__).resolve().parents[2] / "benchmarks" / "sessions"


@pytest.fixture
def recorded(server: ScriptedServer, tmp_path: Path) -> Path:
    """A run with a mix of two models, faults, malformed replies, repairs and duplicates."""
    count = iter(range(1000))

    def answer(_seen: Seen) -> str:
        n = next(count)
        return "I would rather not." if n % 5 == 4 else kernel(n % 17)

    server.answer = answer
    server.script = ["ok", "busy", "ok", "ok", "cut", "ok", "ok", "too_long"]
    settings = mixed(server)
    search(tmp_path / "run", MixedGenerator({"llm": generator(settings)}), settings, window=1)
    return tmp_path / "run"


def mixed(server: ScriptedServer) -> LlmSettings:
    settings = settings_for(server.url)
    return evolve(settings, mix=Mix.parse(["p:m", "p:other", "mend=p:third"]))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a replay opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_run_is_replayed_exactly_without_a_network(recorded: Path, offline: None, tmp_path: Path) -> None:
    del offline
    recording = unpack(recorded)
    assert {call.role for call in recording.calls} >= {"draft", "mend"}
    assert {call.request.model for call in recording.calls} == {"m", "other", "third"}
    done = replay(recorded, out=tmp_path / "again")
    assert done.differences == ()
    again = replay(tmp_path / "again")
    assert (again.differences, again.result.trajectory) == ((), done.result.trajectory)


def test_a_packed_recording_replays_as_its_run(recorded: Path, offline: None, tmp_path: Path) -> None:
    del offline
    for name in ("a.jsonl", "a.jsonl.gz"):
        pack(unpack(recorded), tmp_path / name)
        assert replay(tmp_path / name).exact
    assert (tmp_path / "a.jsonl").read_bytes() == gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes())
    assert unpack(tmp_path / "a.jsonl.gz") == unpack(recorded)


def test_a_changed_reply_is_seen(recorded: Path, tmp_path: Path) -> None:
    recording = unpack(recorded)
    first = next(call for call in recording.calls if call.reply is not None and "SPEED" in call.reply.text)
    assert first.reply is not None
    other = evolve(first, reply=evolve(first.reply, text=kernel(99)))
    calls = tuple(other if call is first else call for call in recording.calls)
    pack(evolve(recording, calls=calls), tmp_path / "a.jsonl")
    done = replay(tmp_path / "a.jsonl")
    assert not done.exact


def test_a_changed_prompt_is_seen_and_the_replay_goes_on(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kevolve_core.llm import context

    monkeypatch.setattr(context, "_DIRECTIONS", ["Another direction."])
    done = replay(recorded)
    assert all("the prompt of request" in line for line in done.differences)
    assert len(done.result.trajectory) >= len([p for p in done.recording.proposals if p is not None])


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"kevolve-recording": 1}) + "\n{")
    with pytest.raises(StoreError, match="cannot be read"):
        replay(tmp_path / "bad.jsonl")
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(StoreError, match="no recording that this Kevolve reads"):
        replay(tmp_path / "other.jsonl")
    with pytest.raises(StoreError, match="there is no recording here"):
        replay(tmp_path / "nowhere")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "session", sorted(SESSIONS.glob("*.jsonl.gz")), ids=lambda file: file.name.split(".")[0]
)
def test_a_session_written_by_hand_replays_bit_by_bit(session: Path) -> None:
    done = replay(session)
    assert done.differences == ()
    assert done.result.best is not None
    assert done.result.confirmed


def test_the_sessions_hold_good_and_bad_replies() -> None:
    recordings = [unpack(file) for file in sorted(SESSIONS.glob("*.jsonl.gz"))]
    verdicts = {e.verdict.kind.value for r in recordings for e in r.evaluations["search"].values()}
    assert verdicts >= {"accepted", "compile_error", "wrong_result", "crash"}


def test_the_sessions_hold_forty_candidates_over_four_operators() -> None:
    recordings = [unpack(file) for file in sorted(SESSIONS.glob("*.jsonl.gz"))]
    assert len(recordings) >= 4
    assert sum(len(r.evaluations["search"]) for r in recordings) >= 40


@pytest.mark.parametrize("operator", ["dilate", "hamming", "map_id", "row_top8"])
def test_a_session_ends_with_a_kernel_better_than_the_first_proposal_of_synth(operator: str) -> None:
    recording = unpack(SESSIONS / f"{operator}.jsonl.gz")
    (confirmed,) = recording.evaluations["confirm"].values()
    winner = confirmed.candidate_id
    lows = [r.low for c in recording.comparisons if c.evaluation.candidate_id == winner for r in c.ratios]
    assert lows
    assert min(lows) > 1.0
