"""Evolve fast, verified kernels for any accelerator.

    import kevolve_core

    result = kevolve_core.evolve("rmsnorm.yaml", budget="60s")
    print(result.reason, result.report.kernel)

Everything here is imported when it is first used: importing the package is quick and imports no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kevolve_core.api import (
        Result,
        evaluate,
        evolve,
        evolve_async,
        load_result,
        repro,
        resume,
        resume_async,
    )
    from kevolve_core.bundle import export
    from kevolve_core.errors import KevolveError
    from kevolve_core.evolve.budget import Budget
    from kevolve_core.kernelspec import KernelSpec
    from kevolve_core.model import Candidate, Evaluation, Evidence, Measurement, Ratio, Verdict
    from kevolve_core.registry import Registry, discover
    from kevolve_core.spec import dump_spec, load_seed, load_spec
    from kevolve_core.spec.from_function import spec_from_function

__all__ = [
    "Budget",
    "Candidate",
    "Evaluation",
    "Evidence",
    "KernelSpec",
    "KevolveError",
    "Measurement",
    "Ratio",
    "Registry",
    "Result",
    "Verdict",
    "discover",
    "dump_spec",
    "evaluate",
    "evolve",
    "evolve_async",
    "export",
    "load_result",
    "load_seed",
    "load_spec",
    "repro",
    "resume",
    "resume_async",
    "spec_from_function",
]

_HOMES = {
    "kevolve_core.api": (
        "Result", "evolve_async", "load_result", "repro", "resume", "resume_async",
    ),
    "kevolve_core.bundle": ("export",),
    "kevolve_core.errors": ("KevolveError",),
    "kevolve_core.evolve.budget": ("Budget",),
    "kevolve_core.kernelspec": ("KernelSpec",),
    "kevolve_core.model": ("Candidate", "Evaluation", "Evidence", "Measurement", "Ratio", "Verdict"),
    "kevolve_core.registry": ("Registry", "discover"),
    "kevolve_core.spec": ("dump_spec", "load_seed", "load_spec"),
    "kevolve_core.spec.from_function": ("spec_from_function",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

#: Functions of the API that have the name of a package of ours.
_CALLABLE = ("evaluate", "evolve")


class _CallablePackage(ModuleType):
    """`kevolve_core.evolve` is the loop's package and, called, the API's function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module("kevolve_core.api"), self.__name__.rpartition(".")[2])(
            *args, **kwargs
        )


class _Root(ModuleType):
    """Importing a submodule binds it here, whoever imports it first: that is where it becomes callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLABLE and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
