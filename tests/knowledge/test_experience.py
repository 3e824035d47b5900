"""Runs become skills, skills are reviewed, and what is accepted starts the next search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kevolve_core.errors import UnknownNameError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.knowledge import KnowledgeBase, Page, Query
from kevolve_core.knowledge.catalogue import entries
from kevolve_core.knowledge.experience import Memory, signature_of
from kevolve_core.knowledge.experience.book import SkillBook
from kevolve_core.knowledge.experience.distill import Learned, distill
from kevolve_core.model import (
    Candidate,
    Device,
    Evaluation,
    Evidence,
    Origin,
    Profile,
    Target,
    Verdict,
    VerdictKind,
)
from kevolve_core.store import ProposalRow, RunStore

DEVICE = Device("vax:0", "vax", "VAX 9000", Target("vax", "v9"))
LEARNED = Learned("run-1", "vax", "vax", DEVICE)


def spec(name: str) -> KernelSpec:
    return next(entry for entry in entries() if entry.name == name).spec()


def candidate(body: str, tile: int = 0, parents: tuple[str, ...] = (), **notes: Any) -> Candidate:
    genome = {"generator": "synth", "language": "cpp", "steps": {"row": {"tile": tile}}} if tile else None
    files = {"kernel.py": "# entry\n", "kernel.cpp": body}
    return Candidate(
        files, "kernel.py", "cpp", parents=parents, genome=genome, origin=Origin("synth", "mutate", notes)
    )


def accepted(made: Candidate, score: float) -> Evaluation:
    profile = Profile(Evidence.MEASURED, bottleneck="memory", hints=("stream the stores",))
    return Evaluation(
        made.id, Verdict(VerdictKind.ACCEPTED), score=score, evidence=Evidence.MEASURED, profile=profile
    )


def failed(made: Candidate, reason: str) -> Evaluation:
    verdict = Verdict(VerdictKind.COMPILE_ERROR, reason, "compile", {"log": f"kernel.cpp:3: {reason}"})
    return Evaluation(made.id, verdict)


def stored(folder: Path, steps: list[tuple[Candidate, Evaluation]], **settings: Any) -> RunStore:
    run = RunStore.create(
        folder, spec=spec("softmax"), settings={"backend": "vax", "generator": "synth", **settings}
    )
    for n, (made, evaluation) in enumerate(steps):
        run.record_proposal(ProposalRow(n, "draft", made.parents, made.id, at_seconds=float(n)), made)
        run.record_evaluation("search", n, evaluation, at_seconds=float(n))
    return run


@pytest.fixture
def steps() -> list[tuple[Candidate, Evaluation]]:
    slow = [candidate(f"slow {n}", tile=64) for n in range(4)]
    fast = [candidate(f"fast {n}", tile=512) for n in range(4)]
    broken = candidate("int x = 1\nint y;\n")
    mended = candidate("int x = 1;\nint y;\n", parents=(broken.id,))
    return [
        *((made, accepted(made, 1.0)) for made in slow),
        *((made, accepted(made, 2.0 + n / 10)) for n, made in enumerate(fast)),
        (broken, failed(broken, "expected ';' before 'int'")),
        (mended, accepted(mended, 1.1)),
    ]


def learn(folder: Path, steps: list[tuple[Candidate, Evaluation]], **settings: Any) -> tuple[Page, ...]:
    with stored(folder, steps, **settings) as run:
        return distill(run, LEARNED)


def test_a_run_teaches_its_winner(tmp_path: Path, steps: list[tuple[Candidate, Evaluation]]) -> None:
    winner = learn(tmp_path / "run", steps)[0]
    assert winner.status == "proposed"
    assert winner.title == "softmax in cpp on VAX 9000: 2.30 times the best baseline"
    assert winner.data["score"] == 2.3
    assert winner.data["genome"]["steps"] == {"row": {"tile": 512}}
    assert (winner.targets, winner.languages, winner.bottlenecks) == (("vax",), ("cpp",), ("memory",))
    assert "softmax" in winner.operators


def test_choices_that_helped_are_stated_with_their_effect(
    tmp_path: Path, steps: list[tuple[Candidate, Evaluation]]
) -> None:
    body = learn(tmp_path / "run", steps)[0].body
    assert "steps.row.tile: 64 to 512" in body
    assert "steps.row.tile = 512: 2.15 times the score of others (4 candidates)" in body


def test_a_fix_that_cured_a_failure_is_a_skill(
    tmp_path: Path, steps: list[tuple[Candidate, Evaluation]]
) -> None:
    cure = learn(tmp_path / "run", steps)[1]
    assert cure.verdicts == ("compile_error",)
    assert cure.symptoms == ("expected ';' before 'int'",)
    assert "-int x = 1\n+int x = 1;" in cure.body


def test_a_run_without_an_accepted_candidate_teaches_nothing(tmp_path: Path) -> None:
    broken = candidate("nonsense")
    assert learn(tmp_path / "run", [(broken, failed(broken, "no"))]) == ()


def test_skills_are_used_once_accepted_and_not_after_they_are_rejected(
    tmp_path: Path, steps: list[tuple[Candidate, Evaluation]]
) -> None:
    book = SkillBook(tmp_path / "mine")
    pages = learn(tmp_path / "run", steps)
    assert [entered.outcome for entered in book.enter(pages)] == ["proposed", "proposed"]

    def warm() -> list[float]:
        base = KnowledgeBase.open([tmp_path / "mine"], shipped=False)
        return [each.score for each in Memory.of(base).warm(spec("softmax"), DEVICE)]

    assert warm() == []
    book.set_status(pages[0].id, "accepted")
    assert warm() == [2.3]
    book.set_status(pages[0].id, "rejected")
    assert warm() == []
    assert [entered.outcome for entered in book.enter(pages)] == ["rejected", "known"]
    book.remove(pages[0].id)
    assert [entered.outcome for entered in book.enter(pages, accept=True)] == ["accepted", "known"]


def test_an_accepted_cure_is_found_by_its_message(
    tmp_path: Path, steps: list[tuple[Candidate, Evaluation]]
) -> None:
    pages = learn(tmp_path / "run", steps)
    SkillBook(tmp_path / "mine").enter(pages, accept=True)
    base = KnowledgeBase.open([tmp_path / "mine"])
    query = Query("kernel.cpp:9: error: expected ';' before 'int'", "cpp", "vax", verdict="compile_error")
    assert base.retrieve(query, 1)[0].page.id == pages[1].id


def test_a_skill_can_be_named_by_the_end_of_its_id(
    tmp_path: Path, steps: list[tuple[Candidate, Evaluation]]
) -> None:
    book = SkillBook(tmp_path / "mine")
    pages = learn(tmp_path / "run", steps)
    book.enter(pages)
    assert book.page(pages[0].id[-8:]).id == pages[0].id
    with pytest.raises(UnknownNameError, match="there is no such skill"):
        book.page("nope")


@pytest.mark.parametrize("how", ["backend", "settings", "candidate"])
def test_what_derives_from_something_confidential_is_confidential(
    tmp_path: Path, steps: list[tuple[Candidate, Evaluation]], how: str
) -> None:
    if how == "candidate":
        told = candidate("told", confidential=True)
        steps.append((told, failed(told, "no")))
    settings = {"confidential": True} if how == "settings" else {}
    learned = Learned("run-1", "vax", "vax", DEVICE, confidential=how == "backend")
    with stored(tmp_path / "run", steps, **settings) as run:
        pages = distill(run, learned)
    assert [page.confidential for page in pages] == [True, True]
    derived = {"backend": {"backend:vax"}, "settings": set(), "candidate": set()}[how]
    assert [page.taint - {f"page:{page.id}"} for page in pages] == [derived, derived]
    book = SkillBook(tmp_path / "mine")
    book.enter(pages, accept=True)
    base = KnowledgeBase.open([tmp_path / "mine"], shipped=False)
    assert [warm.confidential for warm in Memory.of(base).warm(spec("softmax"), DEVICE)] == [True]
    assert base.allowed(confidential=False).pages == ()


def skill(name: str, of: str, *, arch: str = "v9", backend: str = "vax", score: float = 2.0) -> Page:
    data = {
        "genome": {"generator": "synth"}, "language": "cpp", "score": score, "backend": backend,
        "arch": arch, "signature": signature_of(spec(of)).plain(),
    }  # fmt: skip
    return Page(f"skills/{name}", name, "skills", "text", data=data)


def warmed(pages: list[Page], of: str = "softmax", **options: Any) -> list[str]:
    return [warm.source for warm in Memory(pages).warm(spec(of), DEVICE, **options)]


def test_the_same_operator_comes_before_a_similar_one() -> None:
    assert warmed([skill("log", "log_softmax"), skill("same", "softmax")]) == ["same", "log"]


def test_unlike_operators_give_no_warm_start() -> None:
    assert warmed([skill("matmul", "matmul")]) == []


def test_the_same_architecture_comes_before_another_with_a_better_score() -> None:
    pages = [skill("away", "softmax", arch="v8", score=2.5), skill("here", "softmax")]
    assert warmed(pages) == ["here", "away"]


def test_only_genomes_of_the_wanted_language() -> None:
    assert warmed([skill("cpp", "softmax")], language="triton") == []


def test_a_damaged_skill_is_no_warm_start() -> None:
    page = Page("skills/x", "x", "skills", "text", data={"genome": {"a": 1}, "signature": "nonsense"})
    assert warmed([page]) == []


def test_similarity_is_one_for_itself_and_symmetric() -> None:
    one, two = signature_of(spec("softmax")), signature_of(spec("cross_entropy"))
    assert one.similarity(one) == pytest.approx(1.0)
    assert one.similarity(two) == pytest.approx(two.similarity(one))
    assert 0 < one.similarity(two) < one.similarity(signature_of(spec("log_softmax"))) < 1
