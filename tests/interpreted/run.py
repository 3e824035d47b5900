"""Runs `PROBLEMS` through the Triton renderer and Triton's interpreter; prints one JSON verdict a line.

A process of its own: ``TRITON_INTERPRET`` has to be set before Triton is imported. Each result is judged by
the evaluator's parity tolerance, against the reference in float64 and with eager PyTorch as yardstick.
``python -m tests.interpreted.run [NAME…]``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from kevolve_core.evaluate.tolerance import baseline_leaf, compare
from kevolve_core.kernelspec import Precision
from kevolve_core.synth.capture import capture
from kevolve_core.synth.lower import TABLE
from kevolve_core.synth.program import synthesise
from kevolve_core.synth.simplify import simplified
from tests.interpreted.problems import PROBLEMS, Problem
from tests.interpreted.through_triton import loaded, rendered, repair


def _leaves(tree: Any) -> list[torch.Tensor]:
    return list(torch.utils._pytree.tree_leaves(tree))


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.double() if x.is_floating_point() else x


def _call(function: Any, inputs: Sequence[torch.Tensor], wide: bool = False) -> Any:
    if not wide:
        return function(*[x.clone() for x in inputs])
    if isinstance(function, torch.nn.Module):
        function = __import__("copy").deepcopy(function).double()
    return function(*[_wide(x) for x in inputs])


def verdict(problem: Problem, point: Mapping[str, Any]) -> str:
    """Empty where the result is right, else why not."""
    torch.manual_seed(0)
    inputs = problem.inputs()
    with torch.no_grad():
        graph = simplified(capture(problem.function, inputs, keep=TABLE))
        program = synthesise(graph, "main", problem.partition).program
        module = loaded(rendered(program, point))
        call: Any = module.ModelNew() if program.params() else module.f
        if program.params():
            call.load_state_dict(problem.function.state_dict())  # type: ignore[attr-defined]
        got, want = _leaves(call(*inputs)), _leaves(_call(problem.function, inputs))
        exact = _leaves(_call(problem.function, inputs, wide=True))
    for k, (a, b, c) in enumerate(zip(got, want, exact, strict=True)):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"result {k} is {tuple(a.shape)} {a.dtype}, not {tuple(b.shape)} {b.dtype}"
        reference = c if c.is_floating_point() else b
        wrong = compare(a, reference, baseline_leaf(b, reference), Precision())
        if wrong is not None:
            return f"result {k}: {wrong}"
    return ""


def main(names: Sequence[str]) -> None:
    repair()
    for name, problem in PROBLEMS.items():
        if names and name not in names:
            continue
        for label, point in problem.points.items():
            try:
                said = verdict(problem, point)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            print(json.dumps({"problem": name, "point": label, "wrong": said}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
