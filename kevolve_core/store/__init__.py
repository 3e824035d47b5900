"""Runs, candidates and measurements on disk. Start at `RunStore`."""

from kevolve_core.store.blobs import BlobStore, FsspecBlobs
from kevolve_core.store.rows import EvaluationRow, EventRow, ProposalRow, RunInfo, StepRow
from kevolve_core.store.run import RunStore
from kevolve_core.store.schema import SCHEMA_VERSION

__all__ = [
    "SCHEMA_VERSION",
    "BlobStore",
    "EvaluationRow",
    "EventRow",
    "FsspecBlobs",
    "ProposalRow",
    "RunInfo",
    "RunStore",
    "StepRow",
]
