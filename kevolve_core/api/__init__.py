"""The Python API: what `kevolve_core` exports."""

from kevolve_core.api.evaluating import evaluate, repro
from kevolve_core.api.evolving import evolve, evolve_async, load_result, resume, resume_async
from kevolve_core.api.result import Result

__all__ = [
    "Result",
    "evaluate",
    "evolve",
    "evolve_async",
    "load_result",
    "repro",
    "resume",
    "resume_async",
]
