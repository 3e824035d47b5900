"""The tables of one run, in SQLAlchemy Core and portable types only (another database is another engine)."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text

__all__ = [
    "SCHEMA_VERSION",
    "candidates",
    "evaluations",
    "events",
    "finalists",
    "metadata",
    "proposals",
    "run",
    "schema_version",
]

#: Raised with every change of a table; a migration goes from one number to the next.
SCHEMA_VERSION = 2

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

#: One row: what the run is, how far it came and what it cost.
run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created", String, nullable=False),  # UTC, ISO 8601
    Column("spec", Text, nullable=False),
    Column("settings", Text, nullable=False),  # the caller's
    Column("search", Text),  # the loop's own, fixed when it starts
    Column("secret", String, nullable=False),  # input seeds are derived from it; decimal, it has 63 bits
    Column("status", String, nullable=False),
    Column("phase", String, nullable=False),
    Column("stopped", String, nullable=False),  # why the search ended, "" while it goes on
    Column("reason", Text, nullable=False),
    Column("active_seconds", Float, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("money", Float, nullable=False),
    Column("final_phase", String),
    Column("final_sequence", Integer),
)

candidates = Table(
    "candidates",
    metadata,
    Column("id", String, primary_key=True),
    Column("sequence", Integer, nullable=False),  # the proposal that brought it first
    Column("files", Text, nullable=False),  # path -> digest of the blob
    Column("body", Text, nullable=False),  # everything else of the Candidate
    Column("source_key", String, nullable=False),  # equal for sources that differ in nothing that matters
    Index("candidates_by_source", "source_key"),
)

proposals = Table(
    "proposals",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("operator", String, nullable=False),
    Column("lane", String, nullable=False),  # warm, cold, or "" where the run has no lanes
    Column("parents", Text, nullable=False),
    Column("candidate_id", String),  # NULL: the generator gave nothing
    Column("generator", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("duplicate_of", Integer),  # the earlier proposal of the same content
    Column("fault", Text, nullable=False),  # why the generator gave nothing
    Column("tokens", Integer, nullable=False),
    Column("money", Float, nullable=False),
    Column("at_seconds", Float, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("phase", String, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("candidate_id", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("score", Float),
    Column("reused_from", Integer),  # same phase; then `body` is empty and nothing was paid
    Column("at_seconds", Float, nullable=False),
    Column("body", Text, nullable=False),  # the Evaluation without measurements and profile
    Column("blob", String),  # those two
    Index("evaluations_by_score", "phase", "score"),
    Index("evaluations_by_candidate", "candidate_id"),
)

finalists = Table(
    "finalists",
    metadata,
    Column("phase", String, primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("candidate_id", String, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at_seconds", Float, nullable=False),
    Column("wall", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("data", Text, nullable=False),
)
