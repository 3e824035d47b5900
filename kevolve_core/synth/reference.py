"""Cases of a specification as operator graphs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from kevolve_core.kernelspec import Case, InputSpec, KernelSpec
from kevolve_core.spec.draw import laid_out
from kevolve_core.spec.runtime import draw_inputs, load_reference
from kevolve_core.spec.seeding import PROCESS
from kevolve_core.synth.capture import capture
from kevolve_core.synth.graph import Graph
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.simplify import simplified

__all__ = ["graph_of"]


def graph_of(spec: KernelSpec, case: Case, without: Collection[str] = ()) -> Graph:
    """The simplified graph of ``spec``'s reference on ``case``, in the spec's mode; values the reference
    draws while it runs are inputs after the declared ones. ``without`` names rewrites to leave out.

    Raises:
        SpecError: the reference does not run.
        CaptureError: it runs but cannot be captured; names the operator and the line.
    """
    reference = load_reference(spec, case, 0)
    inputs: list[Any]
    if case.inputs:
        inputs = [_example(s) for s in (*case.inputs, *reference.random_inputs)]
    else:
        inputs = list(draw_inputs(spec, case, 0))
    with PROCESS:
        graph = capture(
            reference.call,
            inputs,
            module=reference.module,
            keep=TABLE,
            where=spec.reference.path or spec.name,
        )
    return simplified(graph, without)


def _example(s: InputSpec) -> Any:
    """A tensor of the input's type without data, in its first layout; the value of a scalar."""
    if s.shape is None:
        return s.value
    plain = torch.empty(s.shape, dtype=getattr(torch, s.dtype), device="meta")
    return laid_out(plain, s.layouts[0])
