"""`kevolve kb` and requests in plain words, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kevolve_core.spec import load_spec

from .conftest import Kevolve

PAGE = "---\ntitle: Xylophones\nsources: [a drawer]\n---\n" + "How to tune a xylophone for speed. " * 10


@pytest.fixture(autouse=True)
def _own_knowledge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEVOLVE_KNOWLEDGE", str(tmp_path / "mine"))
    monkeypatch.setenv("COLUMNS", "160")


def test_a_page_is_added_found_and_shown(kevolve: Kevolve, tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text(PAGE)
    assert kevolve("kb", "add", "note.md").code == 0
    found = kevolve("kb", "search", "tune", "the", "xylophone", "--json")
    assert json.loads(found.out)[0]["id"] == "guidance/note"
    assert "- a drawer" in kevolve("kb", "show", "guidance/note").out
    again = kevolve("kb", "add", "note.md")
    assert (again.code, "--force replaces it" in again.err) == (2, True)
    assert kevolve("kb", "add", "note.md", "--force").code == 0


def test_a_folder_is_added_with_its_tree(kevolve: Kevolve, tmp_path: Path) -> None:
    (tmp_path / "team" / "hardware" / "vax").mkdir(parents=True)
    (tmp_path / "team" / "hardware" / "vax" / "caches.md").write_text(PAGE)
    kevolve("kb", "add", "team")
    assert (tmp_path / "mine" / "hardware" / "vax" / "caches.md").exists()
    assert "vax" in kevolve("kb", "show", "hardware/vax/caches").out


def test_lint_names_what_is_wrong_and_fails(kevolve: Kevolve, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.md").write_text("---\ntitle: X\noperators: [sofmax]\n---\nSee /home/me/notes.\n")
    said = kevolve("kb", "lint", "bad")
    assert said.code == 1
    for words in (
        "where its claims come from",
        "path of one machine: /home/me/notes",
        "did you mean 'softmax'",
    ):
        assert words in said.out
    assert kevolve("kb", "lint").code == 0


def test_stats_counts_what_there_is(kevolve: Kevolve) -> None:
    said = kevolve("kb", "stats")
    assert "languages" in said.out
    assert "warm starts   0" in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("kb", "show", "guidance/fusoin"), "did you mean 'guidance/fusion'?"),
        (("kb", "search", "x", "--target", "hoper"), "did you mean 'hopper'?"),
        (("kb", "learn", "nowhere"), "there is no run in this directory"),
        (("kb", "skills", "accept", "nothing"), "there is no such skill"),
        (("kb", "lint", "nowhere"), "there is no such knowledge folder"),
        (("kb", "add", "nowhere.md"), "a knowledge page cannot be read"),
        (("mcp", "--knowledge", "nowhere"), "there is no such knowledge folder"),
        (("evolve", "Generate a Triton kernel for MTIA v3"), "which operator shall the kernel compute?"),
        (("evolve", "softmax on an H100"), "no backend that is ready serves target 'hopper'"),
        (("evolve", "softmax in Triton", "--backend", "toy"), "does not take the language 'triton'"),
    ],
)  # fmt: skip
def test_mistakes_say_what_to_do(kevolve: Kevolve, arguments: tuple[str, ...], words: str) -> None:
    said = kevolve(*arguments)
    assert said.code == 2
    assert words in said.err


def test_a_run_in_plain_words_is_learned_reviewed_and_taken_back(kevolve: Kevolve, tmp_path: Path) -> None:
    words = "row-wise softmax 64x32"
    done = kevolve(
        "evolve", words, "--generator", "toy", "--executor", "toy", "--budget", "12c", "--out", "run"
    )
    assert done.code == 0, done.err
    assert "understood: softmax, ROWS 64 x C 32" in done.err
    assert "case requested: x float32[64, 32]" in done.err
    learned = kevolve("kb", "learn", "run")
    assert learned.out.startswith("proposed  skills/toy/softmax-")
    skill = learned.out.split()[1]
    assert "Xylophone" not in kevolve("kb", "skills", "show", skill).out
    assert "warm starts   0" in kevolve("kb", "stats").out
    kevolve("kb", "skills", "accept", skill)
    assert "warm starts   1" in kevolve("kb", "stats").out
    kevolve("kb", "skills", "reject", skill)
    assert kevolve("kb", "learn", "run").out.startswith("rejected")
    kevolve("kb", "skills", "remove", skill)
    assert not list((tmp_path / "mine").rglob("softmax-*.md"))


def test_a_request_is_written_as_a_specification(kevolve: Kevolve, tmp_path: Path) -> None:
    assert (
        kevolve("spec", "write", "bf16", "softmax", "64x32", "on", "an", "h100", "-o", "mine.yaml").code == 0
    )
    spec = load_spec(tmp_path / "mine.yaml")
    (case,) = spec.timed_cases
    assert [(i.shape, i.dtype) for i in case.inputs] == [((64, 32), "bfloat16")]
    assert "search_path" not in (tmp_path / "mine.yaml").read_text()
    again = kevolve("spec", "write", "softmax", "-o", "mine.yaml")
    assert (again.code, "--force" in again.err) == (2, True)


def test_a_run_of_a_backend_that_is_gone_is_kept_confidential(kevolve: Kevolve, tmp_path: Path) -> None:
    kevolve(
        "evolve", "spec.yaml", "--generator", "toy", "--executor", "toy", "--budget", "6c", "--out", "run"
    )
    (tmp_path / "plugins.toml").write_text("schema = 1\n")
    said = kevolve("kb", "learn", "run")
    assert "kept confidential" in said.err
    assert "confidential: true" in next((tmp_path / "mine").rglob("*.md")).read_text()


@pytest.mark.parametrize("what", ["secrets/guidance/note.md", "secrets/guidance", "secrets"])
def test_what_is_added_from_a_confidential_tree_stays_so(kevolve: Kevolve, tmp_path: Path, what: str) -> None:
    (tmp_path / "secrets" / "guidance").mkdir(parents=True)
    (tmp_path / "secrets" / "guidance" / "note.md").write_text(PAGE)
    (tmp_path / "secrets" / ".confidential").touch()
    assert kevolve("kb", "add", what).code == 0
    (added,) = (tmp_path / "mine").rglob("note.md")
    assert "confidential: true" in added.read_text()
