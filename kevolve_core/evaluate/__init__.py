"""Evaluation: a result is evidence, or it is nothing."""

from kevolve_core.evaluate.executor import LocalExecutor
from kevolve_core.evaluate.stages import PIPELINE, SEARCH_STAGES, STAGES, Stage
from kevolve_core.evaluate.trial import Plan

__all__ = ["PIPELINE", "SEARCH_STAGES", "STAGES", "LocalExecutor", "Plan", "Stage"]
