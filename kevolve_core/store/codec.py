"""Between the contract's data classes and the columns of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Row

from kevolve_core.errors import StoreError
from kevolve_core.model import Candidate, Evaluation, VerdictKind
from kevolve_core.serial import from_plain, to_plain
from kevolve_core.store.blobs import BlobStore
from kevolve_core.store.faults import damaged
from kevolve_core.store.rows import EvaluationRow, EventRow, ProposalRow, RunInfo

__all__ = [
    "candidate_columns",
    "candidate_of",
    "evaluation_columns",
    "evaluation_of",
    "evaluation_row",
    "event_row",
    "proposal_columns",
    "proposal_row",
    "run_info",
    "text",
]

T = TypeVar("T")
_HEAVY = ("measurements", "profile")


def text(value: Any) -> str:
    """Compact JSON of plain values."""
    return json.dumps(value, separators=(",", ":"))


def candidate_columns(candidate: Candidate, blobs: BlobStore) -> dict[str, Any]:
    """Columns ``id``, ``files`` and ``body``; the files' text goes to ``blobs`` first."""
    files = {path: blobs.put(content.encode()) for path, content in candidate.files.items()}
    body = to_plain(candidate)
    del body["files"]
    body.pop("id", None)
    return {"id": candidate.id, "files": text(files), "body": text(body)}


def candidate_of(row: Row[Any], blobs: BlobStore) -> Candidate:
    def build() -> Candidate:
        files = {path: blobs.get(digest).decode() for path, digest in json.loads(row.files).items()}
        return from_plain(Candidate, {**json.loads(row.body), "files": files})

    candidate = _decoded(build, f"candidate {row.id}")
    if candidate.id != row.id:
        raise damaged("a stored candidate does not have the content that its name promises", row.id)
    return candidate


def evaluation_columns(evaluation: Evaluation, blobs: BlobStore) -> dict[str, Any]:
    """Columns ``candidate_id``, ``verdict``, ``score``, ``body`` and ``blob``; raw samples and the profile go
    to ``blobs``."""
    body = to_plain(evaluation)
    heavy = {name: body.pop(name) for name in _HEAVY}
    return {
        "candidate_id": evaluation.candidate_id,
        "verdict": evaluation.verdict.kind.value,
        "score": evaluation.score,
        "body": text(body),
        "blob": blobs.put(text(heavy).encode()) if any(heavy.values()) else None,
    }


def evaluation_of(body: str, blob: str | None, blobs: BlobStore, where: str) -> Evaluation:
    def build() -> Evaluation:
        heavy = json.loads(blobs.get(blob)) if blob else {}
        return from_plain(Evaluation, {**json.loads(body), **heavy})

    return _decoded(build, where)


def evaluation_row(row: Row[Any]) -> EvaluationRow:
    return _decoded(
        lambda: EvaluationRow(
            phase=row.phase,
            sequence=row.sequence,
            candidate_id=row.candidate_id,
            verdict=VerdictKind(row.verdict),
            score=row.score,
            reused_from=row.reused_from,
            at_seconds=row.at_seconds,
        ),
        f"evaluation {row.phase} {row.sequence}",
    )


def proposal_columns(row: ProposalRow) -> dict[str, Any]:
    return {
        "sequence": row.sequence,
        "operator": row.operator,
        "lane": row.lane,
        "parents": text(row.parents),
        "candidate_id": row.candidate_id,
        "generator": row.generator,
        "attempts": row.attempts,
        "duplicate_of": row.duplicate_of,
        "fault": row.fault,
        "tokens": row.tokens,
        "money": row.money,
        "at_seconds": row.at_seconds,
    }


def proposal_row(row: Row[Any]) -> ProposalRow:
    return _decoded(
        lambda: ProposalRow(
            sequence=row.sequence,
            operator=row.operator,
            parents=tuple(json.loads(row.parents)),
            candidate_id=row.candidate_id,
            generator=row.generator,
            attempts=row.attempts,
            duplicate_of=row.duplicate_of,
            fault=row.fault,
            tokens=row.tokens,
            money=row.money,
            at_seconds=row.at_seconds,
            lane=row.lane,
        ),
        f"proposal {row.sequence}",
    )


def event_row(row: Row[Any]) -> EventRow:
    return _decoded(
        lambda: EventRow(row.at_seconds, row.wall, row.kind, json.loads(row.data)), f"event {row.id}"
    )


def run_info(row: Row[Any]) -> RunInfo:
    def build() -> RunInfo:
        search: Mapping[str, Any] | None = json.loads(row.search) if row.search else None
        final = None if row.final_phase is None else (row.final_phase, row.final_sequence)
        return RunInfo(
            created=row.created,
            settings=json.loads(row.settings),
            search=search,
            secret=int(row.secret),
            status=row.status,
            phase=row.phase,
            stopped=row.stopped,
            reason=row.reason,
            active_seconds=row.active_seconds,
            tokens=row.tokens,
            money=row.money,
            final=final,
        )

    return _decoded(build, "run")


def _decoded(build: Callable[[], T], where: str) -> T:
    try:
        return build()
    except StoreError:
        raise
    except Exception as error:  # json, cattrs' exception groups, attrs: whatever a damaged text makes of them
        raise damaged("a stored row cannot be read back", where, error) from error
