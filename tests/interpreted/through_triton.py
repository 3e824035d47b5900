"""A pytest plugin: programs that tests of synth evaluate are printed in Triton and interpreted instead.

So ``TRITON_INTERPRET=1 pytest -p tests.interpreted.through_triton tests/synth`` checks every lowering that
has a test against eager PyTorch through the Triton renderer. ``KEVOLVE_TRITON_POINT`` is a JSON point of the
schedule spaces that every step takes where it has such parameters.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kevolve_core.ir import Program
from kevolve_core.kernelspec import Case, KernelSpec, Reference
from kevolve_core.languages.triton import TritonRenderer
from kevolve_core.model import Candidate
from kevolve_core.synth import interpret
from tests.interpreted.repairs import repair

_POINT: Mapping[str, Any] = json.loads(os.environ.get("KEVOLVE_TRITON_POINT", "{}"))
_FOLDER = Path(tempfile.mkdtemp(prefix="through-triton-"))
_count = 0


def rendered(program: Program, point: Mapping[str, Any]) -> Candidate:
    """The program in Triton, as a function where it has no parameters."""
    module = bool(program.params())
    spec = KernelSpec(
        "test", Reference("", "f", "module" if module else "function"), (Case(program.case or "main"),)
    )
    return TritonRenderer().render(spec, [program], {s.name: point for s in program.steps})


def loaded(candidate: Candidate) -> ModuleType:
    """The entry, imported from a file: Triton reads its functions' source."""
    global _count
    _count += 1
    path = _FOLDER / f"rendered_{_count}.py"
    path.write_text(candidate.files["kernel.py"])
    spec = importlib.util.spec_from_file_location(f"rendered_{_count}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_in_triton(
    program: Program, inputs: Sequence[Any], params: Mapping[str, torch.Tensor] | None = None
) -> Any:
    """As `kevolve_core.synth.interpret.run_program`, by Triton's interpreter."""
    repair()
    module = loaded(rendered(program, _POINT))
    call: Any = module.ModelNew() if program.params() else module.f
    if program.params():
        call.load_state_dict(dict(params or {}))
    return call(*inputs)


interpret.run_program = run_in_triton
