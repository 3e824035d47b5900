"""The pages that ship: enough, sound, sourced, and found by the diagnoses they are for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from kevolve_core.knowledge import KnowledgeBase
from kevolve_core.knowledge.catalogue import Entry, entries
from kevolve_core.knowledge.lint import lint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base() -> KnowledgeBase:
    return KnowledgeBase.open([ROOT / "backends" / "cpu" / "knowledge"], strict=True)


def test_at_least_thirty_pages_ship() -> None:
    assert len(KnowledgeBase.open(strict=True)) >= 30


def test_every_page_keeps_the_rules(base: KnowledgeBase) -> None:
    assert [str(complaint) for complaint in lint(base)] == []


def test_every_page_has_a_source_and_some_substance(base: KnowledgeBase) -> None:
    assert [p.id for p in base if not p.sources or len(p.body.split()) < 80] == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("H100", "hopper"), ("sm_90a", "hopper"), ("B200", "blackwell"), ("gfx942", "cdna3"),
        ("MI355X", "cdna4"), ("MTIA 2i", "mtia-2i"), ("mtia v3", "mtia-300"), ("x86-64-v4", "cpu"),
    ],
)  # fmt: skip
def test_products_and_architectures_name_their_target(base: KnowledgeBase, name: str, target: str) -> None:
    assert base.targets.resolve(name) == target


@pytest.mark.parametrize("topic", ["triton", "cuda", "cute", "cpp", "hip"])
def test_each_language_has_pages(base: KnowledgeBase, topic: str) -> None:
    assert len([page for page in base if topic in page.languages]) >= 2


def test_pages_of_a_family_hold_for_its_members(base: KnowledgeBase) -> None:
    assert {"hopper", "nvidia", "gpu"} == base.targets.closure("H200")


def test_no_shipped_page_is_confidential_or_under_review() -> None:
    pages = KnowledgeBase.open().pages
    assert [page.id for page in pages if page.confidential or page.status != "accepted"] == []


def test_readme_files_are_no_pages(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("what these pages are")
    assert (len(KnowledgeBase.open([tmp_path], shipped=False)), KnowledgeBase.open([tmp_path]).faults) == (
        0,
        (),
    )


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_catalogue_entries_are_specifications(entry: Entry) -> None:
    sizes = {symbol: 16 * (n + 1) for n, symbol in enumerate(entry.shape)}
    spec = entry.spec(sizes, "float16")
    assert spec.name == entry.name
    assert [case.name for case in spec.timed_cases] == ["requested"]


def retrieval() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retrieval", ROOT / "benchmarks" / "retrieval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recall_at_five_over_at_least_forty_questions(base: KnowledgeBase) -> None:
    benchmark = retrieval()
    questions = benchmark.read_questions(benchmark.QUESTIONS)
    whole, words, metadata = benchmark.measure(base, questions, 5)
    assert len(questions) >= 40
    assert whole["recall@5"] >= 0.85
    assert whole["recall@5"] >= max(words["recall@5"], metadata["recall@5"])
