"""Convolutions of stride 1 in CuTe DSL on an NVIDIA GPU beside cuDNN, both in TF32.

    python benchmarks/h100_convolutions.py [--only NAME] [--kept FILE] [--minutes M] [--json FILE] [--dry]

Every row is a kernel as `synth` writes it, with the schedule's default or with fields of it given: the sizes
of KernelBench's convolutions of stride 1 (level 1, by number), the points that comments in
`kevolve_nvidia.cutedsl.convolution_schedule` cite, and tiles for few filters. It is compiled ahead and run in
this process. Times are medians over CUDA events of whole calls, with what puts channels last; kernel
and cuDNN in turns, L2 flushed by reading, launches queued behind a kernel that waits. `error` is the root of
the mean square against float64 over that of the result, on the first and the last image; a row is `correct`
where it is within twice cuDNN's or TF32's unit roundoff. Registers, spilled and shared bytes are of the
convolution's kernel; what CuTe DSL does not take is `declined`.
--kept goes on with the rows of a run that was stopped. --dry compiles for Hopper without a GPU: no times.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from attrs import evolve, field, frozen
from h100_languages import Clock, relative
from kept import Kept
from provenance import shown_command

from kevolve_core.bench.environment import environment
from kevolve_core.errors import KevolveError, UnsupportedError
from kevolve_core.interfaces import Proposal
from kevolve_core.ir import LibraryCall
from kevolve_core.kernelspec import Case, InputSpec, KernelSpec, Reference
from kevolve_core.model import Artifact, Candidate, Device
from kevolve_core.synth import SynthGenerator
from kevolve_core.synth.genome import Genome
from kevolve_nvidia.compiler import NvidiaCompiler
from kevolve_nvidia.facts import compile_only, found_devices
from kevolve_nvidia.plugin import NvidiaBackend
from kevolve_nvidia.runner import NvidiaRunner

#: What a kept row depends on beside this file.
_SOURCES = (
    "backends/nvidia/src/kevolve_nvidia/cutedsl", "kevolve_core/languages/triton/render",
    "kevolve_core/synth/channels.py",
)  # fmt: skip
_TF32 = 2.0**-11  # unit roundoff of 10 bits behind the point


@frozen
class Convolution:
    """A convolution of stride 1; sizes as PyTorch orders them, and fields of the schedule that are given."""

    name: str
    image: tuple[int, ...]
    filters: int
    taps: tuple[int, ...]
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False
    point: Mapping[str, int] = field(factory=dict)

    @property
    def weight(self) -> tuple[int, ...]:
        pair = (self.image[1], self.filters) if self.transposed else (self.filters, self.image[1])
        return (*pair, *self.taps)

    @property
    def flops(self) -> float:
        """Two a product: each tap meets every pixel of the result, or of a transposed one's image."""
        n = len(self.taps)
        near, far = self.padding or (0,) * n, self.dilation or (1,) * n
        size = self.image[2:]
        if not self.transposed:
            size = tuple(
                s + 2 * p - d * (k - 1) for s, p, d, k in zip(size, near, far, self.taps, strict=True)
            )
        return 2.0 * self.image[0] * math.prod(size) * math.prod(self.weight)

    def spec(self) -> KernelSpec:
        given = "".join(
            f", {name}={values}"
            for name, values in (("padding", self.padding), ("dilation", self.dilation))
            if values
        )
        call = f"F.conv{'_transpose' if self.transposed else ''}{len(self.taps)}d(x, w{given})"
        source = f"import torch.nn.functional as F\n\n\ndef f(x, w):\n    return {call}\n"
        inputs = InputSpec("x", self.image), InputSpec("w", self.weight)
        return KernelSpec(self.name, Reference(source, "f"), (Case("main", inputs),))


def _at(base: Convolution, name: str, value: int) -> Convolution:
    return evolve(base, name=f"{base.name} {name} {value}", point={f"tile_{name}": value})


_WIDE = Convolution("8x64x512x1024 3x3", (8, 64, 512, 1024), 128, (3, 3))
_FEW = (
    Convolution("61", (8, 48, 64, 64, 64), 48, (3, 3, 3), transposed=True),
    Convolution("78", (8, 32, 512, 1024), 32, (3, 7), padding=(1, 3), transposed=True),
)
#: KernelBench's of level 1 by their numbers, and the schedule's points.
CONVOLUTIONS = (
    Convolution("54", (16, 3, 64, 64, 64), 64, (3, 3, 3)),
    Convolution("55", (8, 64, 512, 1024), 128, (3, 3)),
    Convolution("56", (8, 64, 512, 256), 128, (5, 7)),
    Convolution("57", (8, 64, 1024, 1024), 64, (3, 3), transposed=True),
    Convolution("60", (16, 3, 64, 64, 64), 64, (3, 5, 7)),
    _FEW[0],
    Convolution("62", (8, 32, 512, 512), 64, (5, 9)),
    Convolution("63", (16, 16, 1024, 1024), 128, (3, 3)),
    Convolution("64", (64, 128, 65536), 128, (3,), transposed=True),
    Convolution("65", (8, 64, 512, 512), 64, (3, 7), transposed=True),
    Convolution("66", (8, 3, 16, 128, 128), 64, (3, 5, 7)),
    Convolution("67", (32, 64, 131072), 128, (3,)),
    Convolution("74", (32, 32, 131072), 64, (5,), dilation=(3,), transposed=True),
    _FEW[1],
    Convolution("80", (8, 32, 512, 512), 64, (5, 9), padding=(2, 4), dilation=(2, 3)),
    Convolution("87", (16, 64, 1024, 1024), 128, (1, 1)),
    *(_at(_WIDE, "width", n) for n in (32, 64, 128)),
    *(_at(_WIDE, "cluster", n) for n in (1, 2)),
    _at(_FEW[0], "channels", 48),
    _at(_FEW[1], "channels", 32),
)


def candidate_of(one: Convolution, backend: NvidiaBackend, device: Device) -> Candidate:
    """The kernel at the convolution's point. Raises `UnsupportedError` where CuTe DSL does not take it."""
    spec = one.spec()
    renderers = {"cute": backend.renderers()["cute"]}
    generator = SynthGenerator(spec, renderers, backend.schedule_space, device)
    base = generator.default()
    genome = Genome.parsed(base.genome)
    assert genome is not None
    steps = {**genome.steps}
    for step in generator.programs(genome.partition)[0].steps:
        if isinstance(step, LibraryCall):
            space = backend.schedule_space(step, device, "cute")
            point = {**space.default(), "implementation": "generated", **one.point}
            if (violated := space.violated(point)) is not None:
                raise UnsupportedError("the schedule does not take this point", got=str(violated))
            steps[step.name] = point
    return generator._candidate(evolve(genome, steps=steps), Proposal(spec, device, 0, 0, parents=()), "")


class Bench:
    """One device, or none where ``runner`` is None."""

    def __init__(
        self, backend: NvidiaBackend, device: Device, runner: NvidiaRunner | None, scratch: Path
    ) -> None:
        self.backend, self.device, self.runner, self.scratch = backend, device, runner, scratch
        self.compiler = NvidiaCompiler(backend.settings, device)
        self.clock = None if runner is None else Clock()

    def row(self, job: tuple[str, str]) -> dict[str, Any]:
        """The row of (device, name of a convolution)."""
        one = next(c for c in CONVOLUTIONS if c.name == job[1])
        row: dict[str, Any] = {
            "convolution": one.name, "image": list(one.image), "weight": list(one.weight),
            "padding": list(one.padding), "dilation": list(one.dilation), "transposed": one.transposed,
            "point": dict(one.point), "kernel_us": None, "cudnn_us": None, "ratio": None, "tflops": None,
            "error": None, "cudnn_error": None, "correct": None,
        }  # fmt: skip
        spec = one.spec()
        try:
            candidate = candidate_of(one, self.backend, self.device)
        except UnsupportedError as error:
            return row | {"declined": f"{error.what}: {error.got}"[:300]}
        start = time.perf_counter()
        try:
            artifact = self.compiler.compile(candidate, spec, spec.cases[0], self.device.target)
            row["compile_s"] = round(time.perf_counter() - start, 2)
            kernels: Mapping[str, Any] = artifact.facts["kernels"]
            (facts,) = (f for name, f in kernels.items() if name.startswith("HopperConvolution"))
            row |= {name: facts.get(name) for name in ("registers", "spill_bytes", "shared_bytes")}
            return row if self.runner is None else row | self._timed(one, artifact, candidate)
        except (KevolveError, RuntimeError) as error:
            return row | {"failed": f"{type(error).__name__}: {error}"[:300]}

    def _timed(self, one: Convolution, artifact: Artifact, candidate: Candidate) -> dict[str, Any]:
        assert self.runner is not None
        assert self.clock is not None
        folder = self.scratch / candidate.id
        folder.mkdir(exist_ok=True)
        (folder / "kernel.py").write_text(candidate.files["kernel.py"])
        kernel: Callable[..., Any] = getattr(self.runner.load(artifact, folder), candidate.symbol or "f")
        scope: dict[str, Any] = {}
        exec(one.spec().reference.source, scope)
        cudnn = scope["f"]
        torch.cuda.empty_cache()
        torch.manual_seed(0)
        x = torch.randn(one.image, device="cuda")
        w = torch.randn(one.weight, device="cuda") / math.sqrt(one.image[1] * math.prod(one.taps))
        ends = sorted({0, one.image[0] - 1})
        wanted = cudnn(x[ends].double(), w.double())
        errors = [relative(call(x, w)[ends], wanted) for call in (kernel, cudnn)]
        del wanted
        seconds, base = self.clock.in_turns(lambda: kernel(x, w), lambda: cudnn(x, w))
        return {
            "kernel_us": round(1e6 * seconds, 2),
            "cudnn_us": round(1e6 * base, 2),
            "ratio": round(base / seconds, 3),
            "tflops": round(1e-12 * one.flops / seconds, 1),
            "error": errors[0],
            "cudnn_error": errors[1],
            "correct": errors[0] <= max(2 * errors[1], _TF32),
        }


def show(row: Mapping[str, Any]) -> None:
    head = f"{row['convolution']:<32}"
    if why := row.get("declined") or row.get("failed"):
        print(f"{head}{'declined' if 'declined' in row else 'failed'}: {why}", flush=True)
        return
    made = f"{row['compile_s']:>8.1f}{row['registers']:>10}{row['spill_bytes']:>8}"
    if row["kernel_us"] is None:
        print(head + made, flush=True)
        return
    times = f"{row['kernel_us']:>11.1f}{row['cudnn_us']:>11.1f}{row['ratio']:>7.2f}{row['tflops']:>8.0f}"
    wrong = "" if row["correct"] else "  NOT CORRECT"
    print(f"{head}{made}{times}  {row['error']:.1e} (cuDNN {row['cudnn_error']:.1e}){wrong}", flush=True)


def summary_of(rows: list[dict[str, Any]], device: str) -> dict[str, Any]:
    ratios = [r["ratio"] for r in rows if r["ratio"] is not None and not r["point"]]
    return {
        "geomean": round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 3) if ratios else None,
        "worst": min(ratios, default=None),
        "correct": sum(bool(r["correct"]) for r in rows),
        "total": len(rows),
        "declined": [r["convolution"] for r in rows if "declined" in r],
        "command": shown_command("h100_convolutions.py", sys.argv[1:]),
        "environment": environment(
            device, {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", default=[], help="convolutions whose name begins with this"
    )
    parser.add_argument("--kept", type=Path, metavar="FILE", help="rows done so far; goes on with them")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; see --kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--dry", action="store_true", help="compile for Hopper, without a GPU")
    options = parser.parse_args()
    backend = NvidiaBackend({})
    devices = [compile_only("sm_90a")] if options.dry else found_devices(frozenset({"run"}))
    if not devices:
        raise SystemExit("h100_convolutions: there is no NVIDIA GPU here; --dry compiles without one")
    if "cute" not in backend.renderers():
        raise SystemExit("h100_convolutions: CuTe DSL is not installed: pip install 'kevolve-nvidia[cute]'")
    torch.backends.cudnn.allow_tf32 = True
    chosen = [c.name for c in CONVOLUTIONS if not options.only or c.name.startswith(tuple(options.only))]
    kept = Kept(options.kept, 60 * options.minutes, _SOURCES)
    print(f"{'convolution':<32}{'compile':>8}{'registers':>10}{'spilled':>8}"
          f"{'kernel us':>11}{'cuDNN us':>11}{'ratio':>7}{'TFLOP/s':>8}  error")  # fmt: skip
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch, torch.no_grad():
        backend = NvidiaBackend({"cache_dir": scratch})  # what is compiled is compiled anew, and timed
        runner = None if options.dry else NvidiaRunner(devices[0], backend.settings)
        if runner is not None:
            runner.open(Path(scratch))
        bench = Bench(backend, devices[0], runner, Path(scratch))
        try:
            for _, row in kept.each(bench.row, [(devices[0].name, name) for name in chosen]):
                show(row)
                rows.append(row)
                if options.json:  # after every row: the machine may be taken away
                    text = json.dumps({"rows": rows, "summary": summary_of(rows, devices[0].name)}, indent=1)
                    options.json.write_text(text + "\n")
        finally:
            bench.compiler.close()
            if runner is not None:
                runner.reset()
    summary = summary_of(rows, devices[0].name)
    if summary["geomean"]:
        print(f"\ngeomean {summary['geomean']:.2f}, worst {summary['worst']:.2f}", flush=True)


if __name__ == "__main__":
    main()
