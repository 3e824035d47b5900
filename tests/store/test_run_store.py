"""The run store: what goes in comes out, and what goes wrong is said."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kevolve_core.errors import RunLockedError, StoreError
from kevolve_core.kernelspec import KernelSpec, Reference
from kevolve_core.model import (
    Candidate,
    Evaluation,
    Evidence,
    Measurement,
    Origin,
    Profile,
    Ratio,
    Verdict,
    VerdictKind,
)
from kevolve_core.store import FsspecBlobs, ProposalRow, RunStore

SPEC = KernelSpec(name="s", reference=Reference("def f(x): return x", "f"), cases=())


def candidate(number: int = 0) -> Candidate:
    return Candidate(
        files={"k.py": f"X = {number}\n", "k.cpp": "// same\n"},
        entry="k.py",
        language="cpp",
        parents=("p",),
        genome={"steps": {"k0": {"threads": number}}},
        libraries=("aten::mm",),
        origin=Origin("synth", "mutate", {"move": "split"}),
    )


def evaluation(candidate_id: str, score: float | None = 1.5) -> Evaluation:
    measurement = Measurement(
        case="a",
        device="d:0",
        evidence=Evidence.MEASURED,
        phase="race",
        candidate=(1e-3, 2e-3),
        baselines={"eager": (2e-3, 3e-3)},
        ratios={"eager": Ratio(1.5, 1.4, 1.6, 2)},
        best_baseline="eager",
    )
    return Evaluation(
        candidate_id,
        Verdict(VerdictKind.ACCEPTED),
        measurements=(measurement,),
        score=score,
        evidence=Evidence.MEASURED,
        profile=Profile(Evidence.MEASURED, {"bytes": 1.0}),
        seed=2**62 + 1,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.create(tmp_path / "run", spec=SPEC, settings={"backend": "x"}) as opened:
        yield opened


def fill(store: RunStore, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        one = candidate(n)
        store.record_proposal(ProposalRow(n, "draft", ("p",), one.id, "synth", at_seconds=n), one)
        store.record_evaluation("search", n, evaluation(one.id, 1.0 + n % 7), at_seconds=n + 0.5)


def test_a_reopened_run_has_what_was_recorded(tmp_path: Path) -> None:
    one = candidate()
    with RunStore.create(tmp_path / "run", spec=SPEC, settings={"backend": "x"}) as store:
        fill(store, 1)
        store.record_event("sitting", {"pid": 1}, at_seconds=2.0)
        store.record_finalists("race", [one.id])
        store.set_phase("race", active_seconds=3.0, stopped="candidates")
    with RunStore.open(tmp_path / "run") as store:
        again = store.candidate(one.id)
        assert (again, again.origin, again.genome, again.parents) == (
            one,
            one.origin,
            one.genome,
            one.parents,
        )
        assert store.evaluation("search", 0) == evaluation(one.id, 1.0)
        assert store.evaluation_of(one.id) == evaluation(one.id, 1.0)
        assert (store.spec, dict(store.settings)) == (SPEC, {"backend": "x"})
        assert store.finalists("race") == (one.id,)
        assert [event.kind for event in store.events()] == ["sitting"]
        info = store.info()
        assert (info.phase, info.stopped, info.active_seconds) == ("race", "candidates", 3.0)


def test_equal_file_content_is_stored_once(store: RunStore) -> None:
    fill(store, 5)
    blobs = [path for path in (store.path / "blobs").rglob("*") if path.is_file()]
    assert len([path for path in blobs if path.read_text() == "// same\n"]) == 1


def test_steps_pair_proposals_with_evaluations_over_several_pages(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kevolve_core.store.run._PAGE", 8)
    fill(store, 20)
    store.record_proposal(ProposalRow(20, "draft", fault="nothing to propose"), None)
    steps = list(store.steps())
    assert [step.proposal.sequence for step in steps] == list(range(21))
    assert all(
        step.evaluation is not None and step.evaluation.sequence == step.proposal.sequence
        for step in steps[:20]
    )
    assert (steps[20].evaluation, steps[20].proposal.fault) == (None, "nothing to propose")
    assert [step.proposal.sequence for step in store.steps(18)] == [18, 19, 20]


def test_a_duplicate_reads_the_paid_evaluation_and_is_not_counted(store: RunStore) -> None:
    fill(store, 1)
    paid = store.evaluation("search", 0)
    assert paid is not None
    store.record_proposal(ProposalRow(1, "mutate", (), paid.candidate_id, duplicate_of=0), candidate())
    store.record_reuse("search", 1, paid, reused_from=0, at_seconds=1.0)
    assert store.evaluation("search", 1) == paid
    assert store.counts() == {"accepted": 1}
    assert store.first_sequence(paid.candidate_id) == 0
    assert [row.sequence for row in store.top(5)] == [0]


def test_top_ranks_by_score_and_prefers_the_earlier_among_equals(store: RunStore) -> None:
    fill(store, 14)
    assert [row.sequence for row in store.top(4)] == [6, 13, 5, 12]


def test_costs_add_up(store: RunStore) -> None:
    for n in range(3):
        row = ProposalRow(n, "draft", fault="nothing", tokens=10, money=0.5, at_seconds=float(n))
        store.record_proposal(row, None)
    info = store.info()
    assert (info.tokens, info.money, info.active_seconds) == (30, 1.5, 2.0)


def test_a_second_evaluation_for_one_sequence_is_refused(store: RunStore) -> None:
    fill(store, 1)
    with pytest.raises(StoreError, match="already holds this row"):
        store.record_evaluation("search", 0, evaluation(candidate().id), at_seconds=9.0)
    assert store.evaluation("search", 0) == evaluation(candidate().id, 1.0)


def test_a_run_in_use_is_refused_and_names_the_pid(store: RunStore) -> None:
    code = (
        "import sys; from kevolve_core.store import RunStore\n"
        "from kevolve_core.errors import RunLockedError\n"
        "try: RunStore.open(sys.argv[1])\n"
        "except RunLockedError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert f"pid {os.getpid()}" in done.stdout, done.stderr
    with pytest.raises(RunLockedError, match="in use"):
        RunStore.open(store.path)


def test_a_closed_run_is_free_again(tmp_path: Path) -> None:
    RunStore.create(tmp_path, spec=SPEC, settings={}).close()
    RunStore.open(tmp_path).close()
    RunStore.open(tmp_path).close()


def test_a_run_can_be_read_while_it_is_written(store: RunStore) -> None:
    fill(store, 2)
    with RunStore.open_readonly(store.path) as reader:
        assert len(list(reader.steps())) == 2
        fill(store, 1, start=2)
        assert len(list(reader.steps())) == 3
        with pytest.raises(StoreError, match="read-only"):
            reader.set_status("running", active_seconds=0.0)


def test_creating_over_a_run_is_refused_and_keeps_it(tmp_path: Path) -> None:
    with RunStore.create(tmp_path, spec=SPEC, settings={}) as store:
        fill(store, 1)
    with pytest.raises(StoreError, match="there is a run in this directory already"):
        RunStore.create(tmp_path, spec=SPEC, settings={})
    with RunStore.open(tmp_path) as store:
        assert len(list(store.steps())) == 1


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no run"):
        RunStore.open(tmp_path)
    with pytest.raises(StoreError, match="there is no run"):
        RunStore.open_readonly(tmp_path / "absent")


def test_an_interrupted_creation_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite.new").write_bytes(b"half a database")
    (tmp_path / "run.sqlite.new-wal").write_bytes(b"half a log")
    with RunStore.create(tmp_path, spec=SPEC, settings={}) as store:
        assert store.info().status == "new"


@pytest.mark.parametrize(
    ("version", "mend"), [(999, "upgrade kevolve"), (0, "the Kevolve version that made")]
)
def test_another_schema_version_is_refused_with_what_to_do(tmp_path: Path, version: int, mend: str) -> None:
    RunStore.create(tmp_path, spec=SPEC, settings={}).close()
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        connection.execute("UPDATE schema_version SET version = ?", (version,))
    connection.close()
    with pytest.raises(StoreError, match="another schema version") as raised:
        RunStore.open(tmp_path)
    assert mend in str(raised.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").write_bytes(
        b"not a database at all, but long enough to look like a header" * 20
    )
    with pytest.raises(StoreError, match="damaged"):
        RunStore.open(tmp_path)


def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    with RunStore.create(tmp_path, spec=SPEC, settings={}) as store:
        fill(store, 50)
    file = tmp_path / "run.sqlite"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(StoreError, match="damaged"):
        RunStore.open(tmp_path)


def test_a_missing_and_an_altered_source_are_found_on_reading(store: RunStore) -> None:
    fill(store, 2)
    for path in (store.path / "blobs").rglob("*"):
        if path.is_file() and path.read_text() == "X = 0\n":
            path.unlink()
        elif path.is_file() and path.read_text() == "X = 1\n":
            path.write_text("X = 2\n")
    with pytest.raises(StoreError, match="missing"):
        store.candidate(candidate(0).id)
    with pytest.raises(StoreError, match="content that its name promises"):
        store.candidate(candidate(1).id)


def test_an_unreadable_row_is_an_error_with_its_place(store: RunStore) -> None:
    fill(store, 1)
    with sqlite3.connect(store.path / "run.sqlite") as connection:
        connection.execute("UPDATE evaluations SET body = '{}'")
    connection.close()
    with pytest.raises(StoreError, match="cannot be read back") as raised:
        store.evaluation("search", 0)
    assert "evaluation search 0" in str(raised.value)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_what_was_stored_stays(store: RunStore) -> None:
    fill(store, 20)
    with file_size_limit(4096), pytest.raises(StoreError) as raised:
        fill(store, 100, start=20)
    assert "free space" in str(raised.value)
    kept = len([step for step in store.steps() if step.evaluation is not None])
    assert kept >= 20
    store.close()
    with RunStore.open(store.path) as again:
        assert len([step for step in again.steps() if step.evaluation is not None]) == kept
        fill(again, 1, start=len(list(again.steps())))


@pytest.mark.parametrize("limit", [8, 40, 72, 104, 136, 168, 1000])
def test_a_run_that_did_not_fit_is_not_there(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "run"
    said = ""
    try:
        with file_size_limit(limit << 10):
            RunStore.create(path, spec=SPEC, settings={}).close()
    except StoreError as error:
        said = str(error)
    assert bool(said) == (not list(path.glob("run.sqlite*")))
    if said:
        assert "start the run again" in said
        RunStore.create(path, spec=SPEC, settings={}).close()
    with RunStore.open(path) as again:
        assert again.spec == SPEC


def test_a_blob_that_did_not_fit_leaves_nothing(tmp_path: Path) -> None:
    blobs = FsspecBlobs(str(tmp_path))
    with file_size_limit(4096), pytest.raises(StoreError, match="the disk is full"):
        blobs.put(os.urandom(100_000))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_blobs_work_over_another_file_system() -> None:
    blobs = FsspecBlobs("memory://kevolve-test/blobs")
    digest = blobs.put(b"text")
    assert (blobs.put(b"text"), blobs.get(digest)) == (digest, b"text")


def test_awkward_directory_names_work(tmp_path: Path) -> None:
    path = tmp_path / "a run? 50% #1 ü"
    with RunStore.create(path, spec=SPEC, settings={}) as store:
        fill(store, 1)
    with RunStore.open_readonly(path) as store:
        assert store.candidate(candidate().id) == candidate()
