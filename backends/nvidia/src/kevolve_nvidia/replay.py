"""One call of a compiled candidate between marks that a profiler heeds: ``python -m kevolve_nvidia.replay
REQUEST``. Run by `kevolve_nvidia.ncu`; the candidate has passed its checks by then."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import torch

from kevolve_core.isolate.entry import exported
from kevolve_core.kernelspec import KernelSpec
from kevolve_core.model import Artifact, Device
from kevolve_core.serial import from_plain
from kevolve_core.spec.runtime import draw_inputs, load_reference
from kevolve_nvidia.runner import NvidiaRunner
from kevolve_nvidia.settings import Settings

__all__ = ["main"]


def main() -> None:
    """Load what the request names, call it twice to warm up, and once for the profiler."""
    request = json.loads(Path(sys.argv[1]).read_text())
    spec = from_plain(KernelSpec, request["spec"])
    case = spec.case(request["case"])
    device = from_plain(Device, request["device"])
    runner = NvidiaRunner(device, Settings.from_options(request["settings"]))
    runner.open(Path(sys.argv[1]).parent)
    artifact = from_plain(Artifact, request["artifact"])
    module = runner.load(artifact, Path(request["source"]))
    program: Any = exported(module, str(artifact.facts.get("symbol", "")), spec.reference.symbol)
    if inspect.isclass(program):
        reference = load_reference(spec, case, 0)
        program = program(*reference.init_args, **reference.init_kwargs)
        if reference.module is not None:
            program.load_state_dict(reference.module.state_dict())
        program = runner.to_device(program.train(spec.mode == "train"))
    inputs = [runner.upload(v) if isinstance(v, torch.Tensor) else v for v in draw_inputs(spec, case, 0)]
    with torch.no_grad():
        for _ in range(2):
            program(*inputs)
        runner.flush_cache()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        program(*inputs)
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
