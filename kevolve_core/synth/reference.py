"""Cases of a specification as operator graphs."""

from __future__ import annotations

from collections.abc import Collection

from kevolve_core.kernelspec import Case, KernelSpec
from kevolve_core.spec.runtime import LoadedReference, example_inputs, load_reference
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
    reference = load_reference(spec, case, 0, undrawn=True)
    graph = _captured(spec, case, reference)
    if not reference.drawn and any(n.op == "constant" for n in graph.nodes):
        # What the graph holds of the reference's tensors may have been drawn after what was left out.
        graph = _captured(spec, case, load_reference(spec, case, 0))
    return simplified(graph, without)


def _captured(spec: KernelSpec, case: Case, reference: LoadedReference) -> Graph:
    inputs = example_inputs(spec, case, "")
    with PROCESS:
        return capture(
            reference.call,
            inputs,
            module=reference.module,
            keep=TABLE,
            where=spec.reference.path or spec.name,
        )
