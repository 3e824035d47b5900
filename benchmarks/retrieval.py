"""Recall of the knowledge base: for each diagnosis, are the pages that answer it among the first five?

    python benchmarks/retrieval.py [--json FILE] [--questions FILE] [-k 5] [--misses] [--sessions FOLDER]

Questions are worded as compilers, profilers and verdicts word them. Compared with words alone (BM25 without
metadata) and with metadata alone, each over the same pages: shipped ones and those of the backends that are
ready here.

The recorded sessions give the share of failing candidates among those whose prompts showed pages and those
whose prompts did not. It is no effect of retrieval: the replies of these sessions were written beforehand by
hand and dealt out by what a prompt asks for, whatever pages it shows. What retrieval does to a model's
failures can only be measured with a model that reads the prompts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from attrs import evolve, frozen

from kevolve_core.knowledge import KnowledgeBase, Query
from kevolve_core.knowledge.folders import ready_base
from kevolve_core.knowledge.operators import families
from kevolve_core.llm.recording import unpack
from kevolve_core.registry import discover
from kevolve_core.report import environment

QUESTIONS = Path(__file__).parent / "data" / "retrieval_questions.yaml"
SESSIONS = Path(__file__).parent / "sessions"
_NO_EFFECT = (
    "the sessions' replies were written by hand before their prompts were, and do not depend on pages"
)


@frozen
class Question:
    """A diagnosis and the pages that answer it. ``origin`` is ``written`` for this set, or ``reported``: a
    problem that users have reported in public, retold."""

    query: Query
    pages: tuple[str, ...]
    origin: str = "written"


def read_questions(file: Path) -> tuple[Question, ...]:
    """The questions in ``file``; operators come with their families, as a spec's do."""
    found = []
    for given in yaml.safe_load(file.read_text(encoding="utf-8")):
        named = tuple(given.get("operators", ()))
        query = Query(
            text=" ".join(given["text"].split()),
            language=given.get("language", ""),
            target=given.get("target", ""),
            operators=tuple(dict.fromkeys((*named, *families(named)))),
            bottleneck=given.get("bottleneck", ""),
            verdict=given.get("verdict", ""),
        )
        found.append(Question(query, tuple(given["pages"]), given.get("origin", "written")))
    return tuple(found)


def _words(query: Query) -> Query:
    return Query(text=query.text)


def _metadata(query: Query) -> Query:
    return evolve(query, text="")


VARIANTS: Mapping[str, Callable[[Query], Query]] = {
    "diagnosis (words and metadata)": lambda query: query,
    "words alone": _words,
    "metadata alone": _metadata,
}


def measure(base: KnowledgeBase, questions: Sequence[Question], k: int) -> list[dict[str, Any]]:
    """A row a variant: recall@k (share of the pages that answer, at most k of them count), hit@k (at least
    one of them), hit@1, mean reciprocal rank, with a 95 % interval (Wilson) of hit@k."""
    rows = []
    for name, ask in VARIANTS.items():
        recall, hits, first, reciprocal = 0.0, 0, 0, 0.0
        for question in questions:
            ids = [hit.page.id for hit in base.retrieve(ask(question.query), max(k, 10))]
            found = [n for n, page in enumerate(ids[:k]) if page in question.pages]
            recall += len(found) / min(k, len(question.pages))
            hits += bool(found)
            first += bool(ids) and ids[0] in question.pages
            reciprocal += next((1 / (n + 1) for n, page in enumerate(ids) if page in question.pages), 0.0)
        count = len(questions)
        low, high = wilson(hits, count)
        rows.append(
            {
                "variant": name,
                "questions": count,
                f"recall@{k}": recall / count,
                f"hit@{k}": hits / count,
                f"hit@{k}_low": low,
                f"hit@{k}_high": high,
                "hit@1": first / count,
                "mrr": reciprocal / count,
            }
        )
    return rows


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (E. Wilson, JASA 1927)."""
    z, share = 1.96, hits / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)


def failing(folder: Path) -> list[dict[str, Any]]:
    """Of the recorded sessions' judged candidates, how many fail: with pages in the prompt and without."""
    counted = {True: [0, 0], False: [0, 0]}  # pages shown -> failed, all
    for file in sorted(folder.glob("*.jsonl.gz")):
        recording = unpack(file)
        shown = {int(name.partition("-")[0]) for name, text in recording.pages.items() if json.loads(text)}
        for sequence, candidate in enumerate(recording.proposals):
            done = None if candidate is None else recording.evaluations["search"].get(candidate.id)
            if done is not None:
                count = counted[sequence in shown]
                count[0] += not done.accepted
                count[1] += 1
    return [
        {
            "prompts": "with pages" if pages else "without pages",
            "failing": failed,
            "candidates": total,
            "share": failed / total if total else None,
            "interval": wilson(failed, total) if total else None,
        }
        for pages, (failed, total) in counted.items()
    ]


def stamp() -> dict[str, str]:
    """Date and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=QUESTIONS.parent,
    )
    return {"date": date.today().isoformat(), "commit": commit.stdout.strip()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and summary there")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, metavar="FILE")
    parser.add_argument("-k", type=int, default=5, help="how many pages count (5)")
    parser.add_argument("--sessions", type=Path, default=SESSIONS, metavar="FOLDER")
    parser.add_argument("--misses", action="store_true", help="print questions without any answer in k")
    given = parser.parse_args()
    base = ready_base(discover())
    for fault in base.faults:
        print(f"left out: {fault.what}")
    questions = read_questions(given.questions)
    unknown = {page for question in questions for page in question.pages} - {page.id for page in base}
    if unknown:
        raise SystemExit(f"questions name pages that are not there: {', '.join(sorted(unknown))}")
    rows = measure(base, questions, given.k)
    for origin in dict.fromkeys(question.origin for question in questions):
        part = [question for question in questions if question.origin == origin]
        rows.append({**measure(base, part, given.k)[0], "variant": f"of these, {origin}"})
    print(f"{len(questions)} questions over {len(base)} pages")
    for row in rows:
        print(
            f"{row['variant']:<32} {row['questions']:>3}  recall@{given.k} {row[f'recall@{given.k}']:.3f}  "
            f"hit@{given.k} {row[f'hit@{given.k}']:.3f} "
            f"[{row[f'hit@{given.k}_low']:.2f}, {row[f'hit@{given.k}_high']:.2f}]  "
            f"hit@1 {row['hit@1']:.3f}  mrr {row['mrr']:.3f}"
        )
    if given.misses:
        for question in questions:
            ids = [hit.page.id for hit in base.retrieve(question.query, given.k)]
            if not set(ids) & set(question.pages):
                print(f"missed: {question.query.text[:90]}\n  wanted {question.pages}\n  found  {ids}")
    shares = failing(given.sessions)
    for share in shares:
        if share["candidates"]:
            low, high = share["interval"]
            print(
                f"recorded sessions, prompts {share['prompts']}: {share['failing']} of {share['candidates']} "
                f"candidates fail, {share['share']:.2f} [{low:.2f}, {high:.2f}]"
            )
    print(f"no effect of retrieval: {_NO_EFFECT}")
    if given.json is not None:
        summary = {
            "total": len(questions),
            "correct": round(rows[0][f"hit@{given.k}"] * len(questions)),
            f"recall@{given.k}": rows[0][f"recall@{given.k}"],
            "pages": len(base),
            "sessions": {"shares": shares, "effect_of_retrieval": f"not measured: {_NO_EFFECT}"},
            "command": "python benchmarks/retrieval.py --json retrieval.json",
            "environment": {**environment(("bm25s",)), **stamp()},
        }
        given.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=2) + "\n")


if __name__ == "__main__":
    main()
