"""Pages are read whole or refused with a reason, filtered by metadata and ranked by words."""

from __future__ import annotations

from pathlib import Path

import pytest

from kevolve_core.errors import KnowledgeError
from kevolve_core.knowledge import Folder, KnowledgeBase, Page, Query
from kevolve_core.knowledge.page import dump_page, parse_page

HEAD = "---\ntitle: {title}\nsources: [test]\n{more}---\n\n{body}\n"


def put(root: Path, name: str, body: str, *, title: str = "A page", more: str = "") -> Path:
    file = root / f"{name}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEAD.format(title=title, more=more, body=body))
    return file


def ids(base: KnowledgeBase, query: Query, k: int = 5) -> list[str]:
    return [hit.page.id for hit in base.retrieve(query, k)]


def test_folders_give_kind_target_and_language(tmp_path: Path) -> None:
    put(tmp_path, "hardware/vax/caches", "text")
    put(tmp_path, "languages/triton/masks", "text")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    assert [(p.id, p.kind, p.targets, p.languages) for p in base.pages] == [
        ("hardware/vax/caches", "hardware", ("vax",), ()),
        ("languages/triton/masks", "languages", (), ("triton",)),
    ]


def test_a_page_reads_back_what_was_dumped() -> None:
    page = Page(
        id="skills/one",
        title="A skill: with a colon",
        kind="skills",
        body="# Text\n\nmore",
        targets=("vax",),
        bottlenecks=("memory",),
        sources=("a run",),
        confidential=True,
        status="proposed",
        data={"gain": 1.5},
    )
    assert parse_page(dump_page(page), "skills/one") == page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no fence", "no front matter"),
        ("---\ntitle: x\nsource: y\n", "no front matter"),
        ("---\n- a\n---\n", "not a mapping"),
        ("---\ntitle: [x\n---\n", "not YAML"),
        ("---\ntitel: x\n---\n", "unknown key 'titel'"),
        ("---\nsources: [x]\n---\nbody", "has no title"),
        ("---\ntitle: x\nbottleneck: ram\n---\n", "'ram' is none of the bottlenecks"),
        ("---\ntitle: x\nconfidential: 'no'\n---\n", "'confidential' is not understood"),
        ("---\ntitle: x\nkind: poem\n---\n", "'kind' is not one"),
        ("---\ntitle: x\ndata: {when: 2026-01-01}\n---\n", "'data' holds what JSON cannot say"),
    ],
)
def test_a_damaged_page_is_refused_with_its_reason(text: str, complaint: str) -> None:
    with pytest.raises(KnowledgeError, match=complaint):
        parse_page(text, "page")


def test_one_damaged_page_does_not_hide_the_others(tmp_path: Path) -> None:
    put(tmp_path, "guidance/good", "text")
    (tmp_path / "bad.md").write_text("nothing at its head")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    assert [page.id for page in base.pages] == ["guidance/good"]
    assert [fault.where for fault in base.faults] == [str(tmp_path / "bad.md")]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="no such knowledge folder"):
        KnowledgeBase.open([tmp_path / "none"])


def test_a_later_folder_replaces_a_page(tmp_path: Path) -> None:
    put(tmp_path / "a", "guidance/x", "old", title="Old")
    put(tmp_path / "b", "guidance/x", "new", title="New")
    base = KnowledgeBase.open([tmp_path / "a", tmp_path / "b"], shipped=False)
    assert base.page("guidance/x").title == "New"


def test_pages_of_other_targets_and_languages_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "hardware/vax/x", "registers spill")
    put(tmp_path, "hardware/cray/x", "registers spill")
    put(tmp_path, "languages/apl/x", "registers spill")
    put(tmp_path, "languages/bcpl/x", "registers spill")
    put(tmp_path, "guidance/x", "registers spill")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    found = ids(base, Query("registers spill", target="vax", language="apl"))
    assert sorted(found) == ["guidance/x", "hardware/vax/x", "languages/apl/x"]


def test_aliases_and_wider_targets_come_from_the_pages(tmp_path: Path) -> None:
    put(tmp_path, "hardware/pdp11/overview", "words", more="aliases: [pdp-11/70]\nwithin: [dec]\n")
    put(tmp_path, "hardware/dec/overview", "words")
    put(tmp_path, "hardware/ibm/overview", "words")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    found = ids(base, Query("words", target="PDP-11/70"))
    assert sorted(found) == ["hardware/dec/overview", "hardware/pdp11/overview"]


def test_the_diagnosis_decides_among_pages_with_the_same_words(tmp_path: Path) -> None:
    put(tmp_path, "guidance/a", "loads and stores", more="bottleneck: compute\n")
    put(tmp_path, "guidance/b", "loads and stores", more="bottleneck: memory\n")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    assert ids(base, Query("stores", bottleneck="memory"))[0] == "guidance/b"


def test_skills_under_review_are_not_retrieved(tmp_path: Path) -> None:
    put(tmp_path, "skills/a", "tile sizes", more="status: proposed\n")
    put(tmp_path, "skills/b", "tile sizes", more="status: rejected\n")
    put(tmp_path, "skills/c", "tile sizes")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    assert ids(base, Query("tile sizes")) == ["skills/c"]


def test_nothing_in_common_finds_nothing(tmp_path: Path) -> None:
    put(tmp_path, "guidance/a", "loads and stores")
    base = KnowledgeBase.open([tmp_path], shipped=False)
    assert ids(base, Query("zebra")) == []
    assert ids(base, Query("")) == []
    assert ids(KnowledgeBase.open([], shipped=False), Query("loads")) == []


def test_confidential_comes_from_page_folder_or_mark(tmp_path: Path) -> None:
    put(tmp_path / "a", "guidance/own", "x", more="confidential: true\n")
    put(tmp_path / "a", "guidance/open", "x")
    put(tmp_path / "a", "hardware/nda/deep/marked", "x")
    (tmp_path / "a" / "hardware" / "nda" / ".confidential").touch()
    put(tmp_path / "b", "guidance/by-folder", "x")
    base = KnowledgeBase.open([tmp_path / "a", Folder(tmp_path / "b", confidential=True)], shipped=False)
    assert {page.id: page.confidential for page in base.pages} == {
        "guidance/by-folder": True,
        "guidance/open": False,
        "guidance/own": True,
        "hardware/nda/deep/marked": True,
    }
    assert [page.id for page in base.allowed(confidential=False).pages] == ["guidance/open"]


def test_a_part_of_a_marked_tree_is_confidential_too(tmp_path: Path) -> None:
    put(tmp_path, "secrets/guidance/x", "x")
    (tmp_path / "secrets" / ".confidential").touch()
    (tmp_path / "link").symlink_to(tmp_path / "secrets" / "guidance")
    for folder in (tmp_path / "secrets" / "guidance", tmp_path / "link"):
        assert [p.confidential for p in KnowledgeBase.open([folder], shipped=False)] == [True]


def test_a_page_derives_from_itself_and_what_it_notes() -> None:
    page = Page("guidance/x", "x", "guidance", "text")
    assert page.taint == frozenset()
    assert page.tainted().taint == {"page:guidance/x"}
    skill = page.tainted("backend:acme").tainted("page:a")
    assert skill.taint == {"page:guidance/x", "backend:acme", "page:a"}
    assert parse_page(dump_page(skill), "guidance/x").taint == skill.taint
