"""Host time of programs of many short steps: launched one by one and as a CUDA graph, beside PyTorch.

    python benchmarks/h100_launch.py [--only NAME] [--rounds N] [--json FILE] [--dry]

Each problem is a chain whose tensors are so small that the host decides. Its default candidate is compiled
ahead and called with nothing queued before the start mark, so that a time is that of the host and the device
together, as a caller sees it: microseconds a call and a launch with bootstrap intervals at 95 %, paired call
by call with eager PyTorch and `torch.compile` in its default mode. The candidate with a CUDA graph is named
so; it copies its inputs and results, which its times contain. Every result is compared with eager's.

`--dry` runs the same on the CPU with a driver whose launches do nothing, and graphs that replay nothing: it
shows the host's own part and proves nothing about a GPU. PyTorch's sides are left out there. Library calls do
compute on the CPU, so `resnet_like` says little there.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from kevolve_core.bench.environment import environment
from kevolve_core.evaluate.statistics import paired_ratio
from kevolve_core.interfaces import PROGRAM, Proposal
from kevolve_core.isolate.entry import EntryModules, entry_of
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.languages.triton import REPLAY
from kevolve_core.model import Artifact, Candidate, Device
from kevolve_core.native import binding
from kevolve_core.spec.runtime import draw_inputs, load_reference
from kevolve_core.synth import SynthGenerator
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, found_devices
from kevolve_nvidia.graphs import Replayed
from kevolve_nvidia.plugin import NvidiaBackend
from kevolve_nvidia.runner import NvidiaRunner
from kevolve_nvidia.settings import Settings

_CHAIN = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(16, 16) / 4) for _ in range({count})])
    def forward(self, x):
        for w in self.w:
            x = torch.softmax(x @ w, -1)
        return x
"""
_RESNET = """
import torch
class Block(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, self.b = (torch.nn.Conv2d(c, c, 3, padding=1, bias=False) for _ in range(2))
        self.na, self.nb = (torch.nn.BatchNorm2d(c) for _ in range(2))
    def forward(self, x):
        return torch.relu(x + self.nb(self.b(torch.relu(self.na(self.a(x))))))
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = torch.nn.Sequential(*[Block(16) for _ in range(13)])
        self.head = torch.nn.Linear(16, 10)
    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
"""
_RECURRENT = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(16, 16)
    def forward(self, x):
        return self.rnn(x)[0]
"""
Built = dict[str, tuple[Candidate, Artifact]]  # a form's candidate, and what it was compiled to
#: Name -> reference and the shape of its input.
PROBLEMS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "products_30": (_CHAIN.replace("{count}", "30"), (16, 16)),
    "recurrent_200": (_RECURRENT, (100, 2, 16)),
    "resnet_like": (_RESNET, (1, 3, 8, 8)),
}


def spec_of(name: str) -> KernelSpec:
    """The problem as a specification."""
    source, shape = PROBLEMS[name]
    case = Case("default", (InputSpec("x", shape),))
    return KernelSpec(name, Reference(source, "Model", kind="module"), (case,))


class SilentDriver:
    """``cuda.bindings.driver`` whose functions do nothing; its structures are the real ones."""

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self.launches = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return getattr(self._driver, name)
        answers: dict[str, Any] = {
            "cuModuleLoadData": (0, 1),
            "cuModuleGetFunction": (0, 1),
            "cuFuncGetAttribute": (0, 1024),
        }
        return lambda *_: answers.get(name, (0,))

    def cuLaunchKernelEx(self, *_: Any) -> tuple[int]:  # noqa: N802
        self.launches += 1
        return (0,)


class SilentGraph:
    """A graph of nothing, and the context in which it is captured."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...

    def replay(self) -> None: ...


@contextmanager
def silent(driver: SilentDriver) -> Iterator[None]:
    """While active, this backend launches through ``driver``, and `torch.cuda` answers what it asks."""
    from kevolve_nvidia import graphs, triton_run

    stream = SimpleNamespace(cuda_stream=1, device=torch.device("cpu"), wait_stream=lambda _: None)
    answers: dict[str, Any] = {
        "current_device": lambda: 0,
        "current_stream": lambda _=None: stream,
        "Stream": lambda _=None: stream,
        "stream": lambda _: nullcontext(),
        "CUDAGraph": SilentGraph,
        "graph": SilentGraph,
        "graph_pool_handle": lambda: None,
        "is_current_stream_capturing": lambda: False,
    }
    with ExitStack() as stack:
        stack.enter_context(patch.object(triton_run, "api", lambda: driver))
        stack.enter_context(patch.object(graphs, "_DEVICE", "cpu"))
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        yield


class Host:
    """Programs on the CPU with kernels that do nothing."""

    def __init__(self) -> None:
        self.driver = SilentDriver()
        self._modules = EntryModules()

    def load(self, artifact: Artifact, folder: Path) -> Any:
        from kevolve_nvidia import triton_run
        from kevolve_nvidia.architectures import architecture
        from kevolve_nvidia.triton_properties import triton_properties

        kernels = Path(str(artifact.facts["folder"])) / triton_run.TRITON_FOLDER
        triton_run.activate(0, 90, triton_properties({}, architecture("sm_90a")), kernels)
        self._modules.reset()
        with binding(lambda *_: None, Replayed):
            return self._modules.load(folder, entry_of(artifact, folder))

    def upload(self, tensor: Any) -> Any:
        return tensor

    def seconds(self, call: Callable[[], Any]) -> tuple[float, Any]:
        begin = time.perf_counter()
        out = call()
        return time.perf_counter() - begin, out


def program_of(
    load: Callable[[Artifact, Path], Any],
    candidate: Candidate,
    artifact: Artifact,
    spec: KernelSpec,
    folder: Path,
    home: Callable[[Any], Any],
) -> Any:
    """The candidate with the reference's weights, on its device."""
    folder.mkdir(parents=True)
    for name, text in candidate.files.items():
        (folder / name).write_text(text)
    reference = load_reference(spec, spec.cases[0], 0)
    made = load(artifact, folder).ModelNew()
    assert reference.module is not None
    made.load_state_dict(reference.module.state_dict())
    return home(made.eval().requires_grad_(False))


class Gpu:
    """Programs on a GPU. Nothing is queued ahead: a time is from before the call to the device's end."""

    def __init__(self, device: Device, scratch: Path) -> None:
        self.runner = NvidiaRunner(device, Settings(queue_ahead_us=0))
        self.runner.open(scratch)
        self.load, self.upload = self.runner.load, self.runner.upload

    def seconds(self, call: Callable[[], Any]) -> tuple[float, Any]:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        out = call()
        torch.cuda.synchronize()
        return time.perf_counter() - begin, out


def forms(spec: KernelSpec, backend: NvidiaBackend, device: Device) -> dict[str, Candidate]:
    """The default candidate in Triton, and the same with a CUDA graph where one is offered."""
    renderers = {"triton": backend.renderers()["triton"]}
    make = SynthGenerator(spec, renderers, backend.schedule_space, device)
    found = {"plain": make.default()}
    for candidate in make.propose_now(Proposal(spec, device, 1, 0, parents=()), 1):
        if (candidate.genome or {})["steps"].get(PROGRAM, {}).get(REPLAY):
            found["CUDA graph"] = candidate
    return found


def launches_of(text: str) -> int:
    """Kernels and library calls of one call, counted in a candidate's text."""
    total, repeat = 0, 1
    for line in text.splitlines():
        if not line.startswith("        "):
            repeat = 1
        if found := re.match(r"    for step in range\((\d+)\):", line):
            repeat = int(found[1])
        if line.startswith("    ") and ("_launch(ready, " in line or "torch.ops.aten." in line):
            total += repeat
    return total


def measured(
    seconds: Callable[[Callable[[], Any]], tuple[float, Any]],
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
) -> dict[str, list[float]]:
    """Seconds a call by side, in rounds of random order after three that do not count."""
    rng, samples = random.Random(0), {name: list[float]() for name in sides}
    order = list(sides)
    for number in range(rounds + 3):
        rng.shuffle(order)
        for name in order:
            took, _ = seconds(sides[name])
            if number >= 3:
                samples[name].append(took)
    return samples


def row_of(name: str, samples: Mapping[str, list[float]], launches: int) -> dict[str, Any]:
    """Microseconds a call and a launch by side, and each form's ratio to PyTorch's sides."""
    row: dict[str, Any] = {"problem": name, "launches": launches}
    for side, taken in samples.items():
        # A side over a constant has the interval of its own median.
        own = paired_ratio(taken, [1e-6] * len(taken), 0)
        row[side] = {"us": own.value, "low": own.low, "high": own.high, "us_a_launch": own.value / launches}
    for form in ("plain", "CUDA graph"):
        for other in ("eager", "torch.compile", "plain"):
            if form != other and form in samples and other in samples:
                ratio = paired_ratio(samples[other], samples[form], 0)
                row[f"{form} over {other}"] = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    return row


def show(row: Mapping[str, Any]) -> None:
    """One problem's lines."""
    print(f"{row['problem']}: {row['launches']} launches", flush=True)
    for side, value in row.items():
        if isinstance(value, dict) and "us" in value:
            interval = f"[{value['low']:.1f}, {value['high']:.1f}]"
            print(
                f"  {side:<14} {value['us']:9.1f} us {interval:>20}  {value['us_a_launch']:7.2f} us a launch"
            )
        elif isinstance(value, dict):
            print(f"  {side:<28} {value['ratio']:6.2f}x [{value['low']:.2f}, {value['high']:.2f}]")
    for remark in row.get("remarks", ()):
        print(f"  {remark}")


def built(name: str, backend: NvidiaBackend, compiler: NvidiaCompiler) -> Built:
    """A problem's forms, compiled side by side."""
    spec = spec_of(name)
    found = forms(spec, backend, compiler.device)

    def compiled(candidate: Candidate) -> Artifact:
        return compiler.compile(candidate, spec, spec.cases[0], compiler.device.target)

    with ThreadPoolExecutor(len(found)) as pool:
        artifacts = pool.map(compiled, found.values())
        return {form: (found[form], artifact) for form, artifact in zip(found, artifacts, strict=True)}


def problem_row(name: str, where: Host | Gpu, found: Built, rounds: int, scratch: Path) -> dict[str, Any]:
    """Measure one problem. A form's program stays loaded while the others run, so each is loaded alone on a
    GPU, whose runner knows one candidate at a time, and paired with PyTorch's sides anew."""
    spec = spec_of(name)
    on_gpu = isinstance(where, Gpu)
    home: Callable[[Any], Any] = where.runner.to_device if isinstance(where, Gpu) else lambda module: module
    given = [where.upload(x) for x in draw_inputs(spec, spec.cases[0], 0)]
    sides: dict[str, Callable[[], Any]] = {}
    reference = load_reference(spec, spec.cases[0], 0)
    if on_gpu:
        home(reference.module)
        compiled = torch.compile(reference.call, dynamic=False)
        sides = {"eager": lambda: reference.call(*given), "torch.compile": lambda: compiled(*given)}
    samples: dict[str, list[float]] = {}
    row: dict[str, Any] = {}
    remarks: list[str] = []
    count = 0
    for form, (candidate, artifact) in found.items():
        program = program_of(where.load, candidate, artifact, spec, scratch / name / candidate.id, home)
        result = program(*given)
        count = count or launches_of(candidate.files["kernel.py"])
        if on_gpu:
            wrong = float((result - reference.call(*given)).abs().max())
            remarks.append(f"{form}: differs from eager by {wrong:.1e} at most")
        own = {form: lambda program=program: program(*given), **sides}  # type: ignore[misc]
        samples |= (taken := measured(where.seconds, own, rounds))
        row |= row_of(name, taken, count)
        if isinstance(where, Gpu):
            remarks += [f"{form}: {key}: {text}" for key, text in where.runner.remarks().items()]
    if "CUDA graph" in samples:
        row["CUDA graph over plain"] = row_of(name, {k: samples[k] for k in found}, count)[
            "CUDA graph over plain"
        ]
    return row | {"remarks": remarks}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=list(PROBLEMS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    backend = NvidiaBackend({})
    devices = [compile_only("sm_90a")] if options.dry else found_devices(frozenset({"run"}))
    if not devices:
        raise SystemExit("h100_launch: there is no NVIDIA GPU here; --dry runs without one")
    compiler = NvidiaCompiler(backend.settings, devices[0])
    rows: list[dict[str, Any]] = []
    summary = {"command": f"python {' '.join(sys.argv)}", "environment": environment(devices[0].name)}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(torch.no_grad())
        stack.callback(compiler.close)
        where: Host | Gpu = Host() if options.dry else Gpu(devices[0], scratch)
        if isinstance(where, Host):
            stack.enter_context(silent(where.driver))
            print("dry: kernels do nothing, library calls run on this CPU; host time alone", flush=True)
        names = options.only or list(PROBLEMS)
        with ThreadPoolExecutor(len(names)) as pool:
            made = list(pool.map(lambda name: built(name, backend, compiler), names))
        for name, found in zip(names, made, strict=True):
            rows.append(problem_row(name, where, found, options.rounds, scratch))
            show(rows[-1])
            if options.json:
                options.json.write_text(json.dumps({"rows": rows, "summary": summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
