"""`RunStore`: one run on disk, written as it happens and read back in constant memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import and_, bindparam, func, insert, select, update

from kevolve_core.errors import StoreError
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Candidate, Evaluation
from kevolve_core.serial import dumps, loads
from kevolve_core.store import codec, schema
from kevolve_core.store.blobs import BlobStore, FsspecBlobs
from kevolve_core.store.database import Database
from kevolve_core.store.faults import FREE_SPACE, damaged, guarded
from kevolve_core.store.lock import RunLock
from kevolve_core.store.rows import EvaluationRow, EventRow, ProposalRow, RunInfo, StepRow

__all__ = ["RunStore"]

_DATABASE, _BLOBS, _LOCK = "run.sqlite", "blobs", "lock"
_PAGE = 512  # rows fetched at a time (estimated: a page of steps is well under a megabyte)
# Statements of every step, built once: SQLAlchemy then spends no time on recognising them again.
_ADD_CANDIDATE = insert(schema.candidates)
_ADD_PROPOSAL = insert(schema.proposals)
_ADD_EVALUATION = insert(schema.evaluations)
_ACTIVE = update(schema.run).values(active_seconds=bindparam("now"))
_SPENT = update(schema.run).values(
    active_seconds=bindparam("now"),
    tokens=schema.run.c.tokens + bindparam("more_tokens"),
    money=schema.run.c.money + bindparam("more_money"),
)
_FIRST = select(schema.candidates.c.sequence).where(schema.candidates.c.id == bindparam("candidate"))
_FIRST_OF_SOURCE = (
    select(schema.candidates.c.id, schema.candidates.c.sequence)
    .where(schema.candidates.c.source_key == bindparam("key"))
    .order_by(schema.candidates.c.sequence)
    .limit(1)
)
_CREATING = "use another directory, or go on with the run there by `kevolve resume`"


class RunStore:
    """A run is a directory: ``run.sqlite``, ``blobs/``, ``lock``.

    Every ``record_…`` and ``set_…`` is one transaction, durable against ``kill -9`` when it returns (see
    `Database` for power failures). Work a call does not grow with the run. All methods raise StoreError for a
    full disk, a read-only place or damaged content; what was stored before stays readable.
    """

    def __init__(self, path: Path, database: Database, blobs: BlobStore, lock: RunLock | None) -> None:
        """Used by `create`, `open` and `open_readonly`."""
        self.path = path
        self._database = database
        self._blobs = blobs
        self._lock = lock
        self._spec: KernelSpec | None = None

    # -- opening ---------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, *, spec: KernelSpec, settings: Mapping[str, Any]) -> Self:
        """A new run in ``path``, which is made and must hold no run yet.

        Args:
            path: the run's directory.
            spec: what is to be computed; stored whole.
            settings: JSON values that the caller needs again to resume (backend, generator, policy, …).

        Raises:
            RunLockedError: another process is creating or using it.
            StoreError: there is a run already, or the place cannot be written.
        """
        path = Path(path).absolute()
        with guarded(str(path)):
            path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(path / _LOCK)
        try:
            file = path / _DATABASE
            if file.exists():
                raise StoreError("there is a run in this directory already", where=str(path), mend=_CREATING)
            values = {
                "id": 1,
                "created": _now(),
                "spec": dumps(spec),
                "settings": codec.text(dict(settings)),
                "secret": str(secrets.randbits(63)),
                "status": "new",
                "phase": "search",
                "stopped": "",
                "reason": "",
                "active_seconds": 0.0,
                "tokens": 0,
                "money": 0.0,
            }
            _create_database(file, values)
            return cls(path, Database(file), FsspecBlobs(str(path / _BLOBS)), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing run, to go on with it.

        Raises:
            RunLockedError: another process is using it; names the pid.
            StoreError: no run there, other schema version, damaged, or not writable.
        """
        path = _existing(path)
        lock = RunLock(path / _LOCK)
        try:
            return cls(path, Database(path / _DATABASE), FsspecBlobs(str(path / _BLOBS)), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open_readonly(cls, path: str | Path) -> Self:
        """An existing run, to look at, also while another process goes on with it."""
        path = _existing(path)
        return cls(path, Database(path / _DATABASE, readonly=True), FsspecBlobs(str(path / _BLOBS)), None)

    def close(self) -> None:
        """Close the database and free the run for others."""
        try:
            self._database.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- the run ---------------------------------------------------------------------------------------

    @property
    def spec(self) -> KernelSpec:
        """What the run computes."""
        if self._spec is None:
            with self._database.transaction() as connection:
                text = connection.execute(select(schema.run.c.spec)).scalar()
            try:
                self._spec = loads(KernelSpec, text or "")
            except Exception as error:
                raise damaged("the stored spec cannot be read back", str(self.path), error) from error
        return self._spec

    @property
    def settings(self) -> Mapping[str, Any]:
        """The mapping that `create` was given."""
        return self.info().settings

    def info(self) -> RunInfo:
        """The run's meta data as of now."""
        with self._database.transaction() as connection:
            row = connection.execute(select(schema.run)).one_or_none()
        if row is None:
            raise damaged("the run's meta data is missing", str(self.path))
        return codec.run_info(row)

    def set_search(self, search: Mapping[str, Any]) -> None:
        """Fix the loop's own settings."""
        self._set(search=codec.text(dict(search)))

    def set_status(self, status: str, *, active_seconds: float, reason: str | None = None) -> None:
        """``running``, ``interrupted``, ``failed`` or ``finished``, and why."""
        values: dict[str, Any] = {"status": status, "active_seconds": active_seconds}
        self._set(**values if reason is None else {**values, "reason": reason})

    def set_phase(self, phase: str, *, active_seconds: float, stopped: str | None = None) -> None:
        """``search``, ``race``, ``confirm`` or ``done``; ``stopped`` is why the search ended."""
        values: dict[str, Any] = {"phase": phase, "active_seconds": active_seconds}
        self._set(**values if stopped is None else {**values, "stopped": stopped})

    def set_final(self, phase: str, sequence: int) -> None:
        """The evaluation that carries the result."""
        self._set(final_phase=phase, final_sequence=sequence)

    def _set(self, **values: Any) -> None:
        with self._database.transaction() as connection:
            connection.execute(update(schema.run).values(values))

    # -- writing ---------------------------------------------------------------------------------------

    def record_proposal(self, row: ProposalRow, candidate: Candidate | None, *, source_key: str = "") -> None:
        """A settled proposal, with its candidate where the content is new (``row.duplicate_of`` is None).
        ``source_key`` is what `first_of_source` finds it by."""
        fresh = candidate is not None and row.duplicate_of is None
        columns = codec.candidate_columns(candidate, self._blobs) if candidate is not None and fresh else None
        with self._database.transaction() as connection:
            if columns is not None:
                connection.execute(
                    _ADD_CANDIDATE, {**columns, "sequence": row.sequence, "source_key": source_key}
                )
            connection.execute(_ADD_PROPOSAL, codec.proposal_columns(row))
            spent = {"now": row.at_seconds, "more_tokens": row.tokens, "more_money": row.money}
            connection.execute(_SPENT, spent)

    def record_evaluation(
        self, phase: str, sequence: int, evaluation: Evaluation, *, at_seconds: float
    ) -> None:
        """A paid evaluation. A second one for the same phase and sequence is refused."""
        columns = codec.evaluation_columns(evaluation, self._blobs)
        self._insert_evaluation({**columns, "reused_from": None}, phase, sequence, at_seconds)

    def record_reuse(
        self, phase: str, sequence: int, evaluation: Evaluation, *, reused_from: int, at_seconds: float
    ) -> None:
        """A duplicate's evaluation: refers to that of proposal ``reused_from`` and was not paid again."""
        columns = {
            "candidate_id": evaluation.candidate_id,
            "verdict": evaluation.verdict.kind.value,
            "score": evaluation.score,
            "reused_from": reused_from,
            "body": "",
            "blob": None,
        }
        self._insert_evaluation(columns, phase, sequence, at_seconds)

    def _insert_evaluation(self, columns: dict[str, Any], phase: str, sequence: int, at: float) -> None:
        key = {"phase": phase, "sequence": sequence, "at_seconds": at}
        with self._database.transaction() as connection:
            connection.execute(_ADD_EVALUATION, {**columns, **key})
            connection.execute(_ACTIVE, {"now": at})

    def record_finalists(self, phase: str, candidate_ids: Sequence[str]) -> None:
        """Who takes part in a finishing phase, in order; fixed once for the run."""
        rows = [
            {"phase": phase, "sequence": n, "candidate_id": candidate}
            for n, candidate in enumerate(candidate_ids)
        ]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(insert(schema.finalists), rows)

    def record_event(self, kind: str, data: Mapping[str, Any], *, at_seconds: float) -> None:
        """Something worth keeping that has no table of its own."""
        values = {"kind": kind, "data": codec.text(dict(data)), "at_seconds": at_seconds, "wall": _now()}
        with self._database.transaction() as connection:
            connection.execute(insert(schema.events), values)

    # -- reading ---------------------------------------------------------------------------------------

    def candidate(self, candidate_id: str) -> Candidate:
        """A stored candidate. Raises StoreError where there is none of that id."""
        query = select(schema.candidates).where(schema.candidates.c.id == candidate_id)
        with self._database.transaction() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise StoreError("no such candidate in this run", got=candidate_id, where=str(self.path))
        return codec.candidate_of(row, self._blobs)

    def first_sequence(self, candidate_id: str) -> int | None:
        """The proposal that first brought this content, or None where it is new."""
        with self._database.transaction() as connection:
            sequence: int | None = connection.execute(_FIRST, {"candidate": candidate_id}).scalar()
        return sequence

    def first_of_source(self, source_key: str) -> tuple[str, int] | None:
        """The first candidate stored with this source key and the proposal that brought it, or None."""
        with self._database.transaction() as connection:
            row = connection.execute(_FIRST_OF_SOURCE, {"key": source_key}).one_or_none()
        return None if row is None else (row.id, row.sequence)

    def evaluation(self, phase: str, sequence: int) -> Evaluation | None:
        """The evaluation of a proposal (followed to the paid one for a duplicate), None while it has none."""
        table = schema.evaluations
        columns = select(table.c.body, table.c.blob, table.c.reused_from).where(table.c.phase == phase)
        with self._database.transaction() as connection:
            row = connection.execute(columns.where(table.c.sequence == sequence)).one_or_none()
            if row is not None and row.reused_from is not None:
                row = connection.execute(columns.where(table.c.sequence == row.reused_from)).one_or_none()
        if row is None:
            return None
        return codec.evaluation_of(row.body, row.blob, self._blobs, f"evaluation {phase} {sequence}")

    def evaluation_of(self, candidate_id: str, phase: str = "search") -> Evaluation | None:
        """The paid evaluation of a candidate in ``phase``, None where there is none."""
        table = schema.evaluations
        query = select(table.c.sequence).where(
            table.c.candidate_id == candidate_id, table.c.phase == phase, table.c.reused_from.is_(None)
        )
        with self._database.transaction() as connection:
            sequence = connection.execute(query).scalar()
        return None if sequence is None else self.evaluation(phase, sequence)

    def evaluation_row(self, phase: str, sequence: int) -> EvaluationRow | None:
        """The row of one evaluation, None while there is none."""
        table = schema.evaluations
        query = select(table).where(table.c.phase == phase, table.c.sequence == sequence)
        with self._database.transaction() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else codec.evaluation_row(row)

    def steps(self, start: int = 0) -> Iterator[StepRow]:
        """Proposals from sequence ``start`` on, in order, each with its evaluation of the search."""
        proposals, evaluations = schema.proposals, schema.evaluations
        ours = and_(evaluations.c.phase == "search", evaluations.c.sequence == proposals.c.sequence)
        while True:
            first = select(proposals).where(proposals.c.sequence >= start)
            first = first.order_by(proposals.c.sequence).limit(_PAGE)
            with self._database.transaction() as connection:
                rows = [codec.proposal_row(row) for row in connection.execute(first)]
                if not rows:
                    return
                second = select(evaluations).join(proposals, ours)
                second = second.where(proposals.c.sequence.between(rows[0].sequence, rows[-1].sequence))
                done = {row.sequence: codec.evaluation_row(row) for row in connection.execute(second)}
            for row in rows:
                yield StepRow(row, done.get(row.sequence))
            start = rows[-1].sequence + 1

    def evaluation_rows(self, phase: str) -> tuple[EvaluationRow, ...]:
        """All evaluations of a finishing phase, in order (for the search use `steps`)."""
        query = select(schema.evaluations).where(schema.evaluations.c.phase == phase)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(schema.evaluations.c.sequence)).all()
        return tuple(codec.evaluation_row(row) for row in rows)

    def top(self, count: int, phase: str = "search") -> tuple[EvaluationRow, ...]:
        """The best ``count`` distinct accepted candidates of a phase by score, earlier first among equals."""
        table = schema.evaluations
        query = select(table).where(
            table.c.phase == phase,
            table.c.verdict == "accepted",
            table.c.score.is_not(None),
            table.c.reused_from.is_(None),
        )
        query = query.order_by(table.c.score.desc(), table.c.sequence).limit(count)
        with self._database.transaction() as connection:
            rows = connection.execute(query).all()
        return tuple(codec.evaluation_row(row) for row in rows)

    def finalists(self, phase: str) -> tuple[str, ...]:
        """Candidate ids of a finishing phase, in order; empty before it began."""
        table = schema.finalists
        query = select(table.c.candidate_id).where(table.c.phase == phase).order_by(table.c.sequence)
        with self._database.transaction() as connection:
            return tuple(connection.execute(query).scalars())

    def counts(self, phase: str = "search") -> dict[str, int]:
        """Paid evaluations of a phase by verdict."""
        table = schema.evaluations
        query = select(table.c.verdict, func.count()).where(
            table.c.phase == phase, table.c.reused_from.is_(None)
        )
        with self._database.transaction() as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(table.c.verdict))}

    def events(self) -> tuple[EventRow, ...]:
        """What `record_event` kept, in order."""
        with self._database.transaction() as connection:
            rows = connection.execute(select(schema.events).order_by(schema.events.c.id)).all()
        return tuple(codec.event_row(row) for row in rows)


def _create_database(file: Path, values: Mapping[str, Any]) -> None:
    """Under another name first: a run is there whole or not at all, whenever its process is killed."""
    draft = file.with_name(file.name + ".new")
    _clear(draft)
    try:
        database = Database(draft, create=True)
        try:
            with database.transaction() as connection:
                connection.execute(insert(schema.run).values(values))
            database.fold()  # renamed without its log, it would be damaged
        finally:
            database.close()
        with guarded(str(file)):
            os.replace(draft, file)
    except StoreError as error:
        _clear(draft)
        mend = error.mend
        if mend == FREE_SPACE:
            mend = "free space (or raise the quota), then start the run again: nothing was stored yet"
        raise StoreError(error.what, got=error.got, where=str(file), mend=mend) from error


def _clear(draft: Path) -> None:
    """Remove what an earlier attempt left."""
    with guarded(str(draft)):
        for leftover in draft.parent.glob(draft.name + "*"):
            leftover.unlink()


def _existing(path: str | Path) -> Path:
    path = Path(path).absolute()
    if not (path / _DATABASE).is_file():
        raise StoreError("there is no run in this directory", got=str(path), mend="name a run's directory")
    return path


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
